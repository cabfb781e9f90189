"""Contents of keyframe files, and the tracks that they become."""

import json

import jsonschema
import numpy as np

from stp_jax.controls import keyframes
from stp_jax.controls.keyframe_tracks import Filmed, resolve
from stp_jax.controls.times import Rates

VALIDATOR = jsonschema.Draft202012Validator(json.loads(keyframes.SCHEMA.read_text()))
F = 17
FILMED = Filmed(np.eye(4), 4.0, 16 / 9, Rates(8.0, 16.0))


def of(*keys, **fields):
    return {"version": 1, **fields, "keyframes": list(keys)}


def tracks(*keys, filmed=FILMED, **fields):
    data = of(*keys, **fields)
    VALIDATOR.validate(data)
    return resolve(keyframes.parse(data), F, filmed, "keys.json")


def pose(rotation, position):
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = rotation.as_matrix(), position
    return c2w
