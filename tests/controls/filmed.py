"""The video and the lens of the cameras that tests write and read."""

import pytest

from stp_jax.controls import cameras
from stp_jax.controls.cameras import Reading
from stp_jax.errors import InputError

F = 12
SIZE = (160, 96)
LENS = (130.0, 80.0, 48.0)  # f, cx, cy in pixels, square
VIDEO = Reading(video=(SIZE[1], SIZE[0]))


def refused(path, reading=VIDEO):
    with pytest.raises(InputError) as error:
        cameras.load(path, reading=reading)
    assert len(str(error.value).splitlines()) <= 2 and len(str(error.value)) < 600
    return str(error.value)
