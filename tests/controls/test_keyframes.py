"""Space-time keyframes: the file and its schema."""

import copy
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stp_jax.controls import cameras, keyframes
from stp_jax.controls.animation_time import curve
from stp_jax.controls.keyframe_tracks import resolve
from stp_jax.controls.keyframes import LookAt, Orbit, Pose, Turned
from stp_jax.controls.times import Time
from stp_jax.errors import InputError
from tests.controls.keyframe_files import FILMED, VALIDATOR, F, of, pose

EXAMPLES = Path(__file__).parents[2] / "examples"
FRAMES = np.arange(F)
W = np.eye(4)
W[:3, :3] = [[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]]
W[:3, 3] = [5, 2, 1]
EYE = np.eye(4).tolist()


EVERYTHING = of(
    {
        "time": 0,
        "camera": {"c2w": [[1, 0, 0, 0.1], [0, 1, 0, 0.25], [0, 0, 1, -3], [0, 0, 0, 1]]},
        "fov": 50.5,
        "animation_time": "0.10s",
        "to_next": "hold",
    },
    {
        "time": 2.5,
        "camera": {"position": [0, 0.1, 2], "quaternion_wxyz": [0.6, 0, 0.8, 0]},
        "focal_length": 35,
        "to_next": {"camera": "ease", "lens": "linear", "animation_time": "smooth"},
    },
    {
        "time": "25%",
        "camera": {"position": [1, 2, 3], "look_at": [0, 0, 4], "up": [0, -1, 0.1], "roll": -3},
        "intrinsics": [1.1, 1.2, 0.5, 0.45],
    },
    {
        "time": "62.5 %",
        "camera": {"orbit": {"left": 10, "up": 1e-3, "distance": 4, "around": [0, 0, 4], "roll": 2}},
        "comment": "Grüße",
    },
    {"time": "2s", "animation_time": "100%"},
    world="source_cameras",
    comment="all there is",
    **{"$schema": "keyframes.schema.json"},
)

# File ---------------------------------------------------------------------------------------------------


def test_what_is_read_is_written_and_read_again(tmp_path):
    VALIDATOR.validate(EVERYTHING)
    (tmp_path / "a.json").write_text(json.dumps(EVERYTHING))
    read = keyframes.read(tmp_path / "a.json")
    keyframes.write(tmp_path / "b.json", read)
    assert keyframes.read(tmp_path / "b.json") == read
    written = json.loads((tmp_path / "b.json").read_text())
    expected = copy.deepcopy(EVERYTHING)
    expected["keyframes"][0]["animation_time"], expected["keyframes"][3]["time"] = "0.1s", "62.5%"
    assert written == expected
    VALIDATOR.validate(written)
    with pytest.raises(InputError, match="exists already"):
        keyframes.write(tmp_path / "b.json", read)


def test_fields_are_what_the_file_says():
    first, second, third, fourth, last = keyframes.parse(EVERYTHING).keyframes
    assert isinstance(first.camera, Pose) and first.fov == 50.5 and first.animation_time == Time(0.1, "s")
    assert second.camera == Turned((0, 0.1, 2), (0.6, 0, 0.8, 0)) and second.way("lens") == "linear"
    assert third.camera == LookAt((1, 2, 3), (0, 0, 4), (0, -1, 0.1), -3) and third.way("camera") == "smooth"
    assert fourth.camera == Orbit(10, 1e-3, 4, (0, 0, 4), 2) and fourth.time == Time(62.5, "%")
    assert last.has("animation_time") and not last.has("camera") and not last.has("lens")


def test_random_keyframes_survive_the_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        keys = []
        for i in range(rng.integers(1, 6)):
            turned = Rotation.random(random_state=int(rng.integers(1000)))
            key = {
                "time": float(i + rng.random()),
                "animation_time": f"{rng.uniform(0, 100)}%",
            }
            position = rng.normal(size=3).tolist()
            if rng.random() < 0.5:
                key["camera"] = {
                    "position": position,
                    "quaternion_wxyz": turned.as_quat(scalar_first=True).tolist(),
                }
            else:
                key["camera"] = {"c2w": pose(turned, position).tolist()}
            keys.append(key)
        data = of(*keys)
        path = tmp_path / f"{number}.json"
        keyframes.write(path, keyframes.parse(data))
        assert json.loads(path.read_text()) == data
        assert keyframes.read(path) == keyframes.parse(data)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_examples_are_valid_and_resolve(path):
    VALIDATOR.validate(json.loads(path.read_text()))
    made = resolve(keyframes.read(path), F, FILMED, path.name)
    assert (
        made.c2w.shape == (F, 4, 4) and made.intrinsics.shape == (F, 4) and made.animation_time.shape == (F,)
    )


def test_the_schema_is_itself_valid_and_goes_with_the_package():
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)
    assert keyframes.SCHEMA.parent.name == "assets"


CAMERA = {"position": [0, 0, 0], "look_at": [0, 0, 4]}
# What is refused, by the reader and by the schema; and whether the schema can know.
REFUSED = [
    ([], "expected an object with version, keyframes", True),
    ({"keyframes": [{"time": 0, "fov": 50}]}, '"version" is missing', True),
    ({"version": 2, "keyframes": [{"time": 0, "fov": 50}]}, '"version" is 2; 1 is read', True),
    ({"version": True, "keyframes": [{"time": 0, "fov": 50}]}, '"version" is true', True),
    (of(), "at least one keyframe", True),
    ({"c2w": [EYE] * F}, "is not a file of keyframes, .* camera paths are given as --camera", True),
    (of({"time": 0}), "no keyframe has a camera, a lens or an animation time", True),
    (of({"time": 0, "fov": 50}, wrld="first_camera"), "unknown field 'wrld': did you mean world", True),
    (of({"time": 0, "fov": 50}, world="blender"), '"world": "blender" is not one of first_camera', True),
    (of({"time": 0, "fov": 50}, comment=3), "comment must be a text", True),
    (of(3), r"keyframes\[0\]: expected an object with time, found 3", True),
    (of({"fov": 50}), r'keyframes\[0\]: "time" is missing', True),
    (
        of({"time": "8", "fov": 50}),
        'expected a frame as 8, seconds as "1.5s" or per cent as "50%", found',
        True,
    ),
    (of({"time": -1, "fov": 50}), "expected a frame as 8", True),
    (of({"time": "-1s", "fov": 50}), "expected a frame as 8", True),
    (of({"time": "1m", "fov": 50}), "expected a frame as 8", True),
    (of({"time": True, "fov": 50}), "expected a frame as 8, .* found true", True),
    (of({"time": [0], "fov": 50}), "expected a frame as 8", True),
    (
        of({"time": 0, "fov": 0}),
        r"keyframes\[0\] at frame 0: fov: expected a number from 1 to 179, found 0",
        True,
    ),
    (of({"time": 0, "fov": 50, "focal_length": 30}), "fov and focal_length are both lenses; give one", True),
    (of({"time": 0, "fov": None}), "fov is null: leave it out", True),
    (of({"time": 0, "focal_length": "35mm"}), "focal_length: expected a number from 1 to 1000", True),
    (of({"time": 0, "intrinsics": [1500, 1500, 960, 540]}), "divided by width, height", True),
    (of({"time": 0, "intrinsics": [1, 1, 0.5]}), "intrinsics: expected 4 numbers", True),
    (
        of({"time": 0, "fov": 50, "to_next": "smoth"}),
        'to_next: "smoth" is not one of linear, smooth, ease',
        True,
    ),
    (of({"time": 0, "fov": 50, "to_next": {"fov": "hold"}}), "unknown field 'fov'", True),
    (of({"time": 0, "fov": 50, "to_next": {"lens": "now"}}), 'to_next: lens: "now" is not one of', True),
    (of({"time": 0, "camera": "orbit_left"}), "camera: expected an object with c2w, position or orbit", True),
    (of({"time": 0, "camera": {"position": [0, 0, 0]}}), '"look_at" is missing', True),
    (of({"time": 0, "camera": {**CAMERA, "c2w": EYE}}), "unknown field 'position'", True),
    (of({"time": 0, "camera": {"c2w": EYE[:3]}}), "c2w: expected 4 x 4 numbers", True),
    (
        of({"time": 0, "camera": {"c2w": np.diag([2, 2, 2, 1]).tolist()}}),
        "c2w: the rotation is not orthonormal",
        False,
    ),
    (
        of({"time": 0, "camera": {"c2w": np.diag([1, 1, -1, 1]).tolist()}}),
        "c2w: the rotation is left-handed",
        False,
    ),
    (of({"time": 0, "camera": {**CAMERA, "look_at": [0, 0, 0]}}), "look_at is where the camera is", False),
    (of({"time": 0, "camera": {**CAMERA, "up": [0, 0, 2]}}), "it looks straight along up", False),
    (of({"time": 0, "camera": {**CAMERA, "up": [0, 0, 0]}}), "up has no direction", False),
    (of({"time": 0, "camera": {**CAMERA, "position": [0, 0, 1e7]}}), "expected 3 numbers up to 1e.06", True),
    (of({"time": 0, "camera": {**CAMERA, "position": [0, "0", 0]}}), "position: expected 3 numbers", True),
    (
        of({"time": 3, "camera": {"position": [0, 0, 0], "quaternion_wxyz": [1, 1, 0, 0]}}),
        r"keyframes\[0\] at frame 3: camera: quaternion_wxyz has length 1.414, not 1: divide",
        False,
    ),
    (of({"time": 0, "camera": {"orbit": {"left": "20"}}}), "orbit: left: expected a number", True),
    (
        of({"time": 0, "camera": {"orbit": {"distance": 0}}}),
        "orbit: distance: expected a number from 0.001",
        True,
    ),
    (of({"time": 0, "camera": {"orbit": {"lft": 20}}}), "unknown field 'lft': did you mean left", True),
    (
        of({"time": 8, "fov": 50}, {"time": 4, "fov": 50}),
        r"\[1\]: out of order: frame 4 comes after frame 8: sort",
        False,
    ),
    (
        of({"time": 8, "fov": 50}, {"time": 8, "fov": 60}),
        r"\[1\]: two keyframes at frame 8: join them",
        False,
    ),
    (
        of({"time": "50%", "fov": 50}, {"time": 9, "fov": 50}, {"time": "40%", "fov": 50}),
        r"\[2\]: out of order: 40%",
        False,
    ),
]


@pytest.mark.parametrize(("data", "message", "by_schema"), REFUSED)
def test_what_is_wrong_is_one_line_and_the_schema_agrees(data, message, by_schema):
    with pytest.raises(InputError, match=message) as error:
        keyframes.parse(data, "keys.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert VALIDATOR.is_valid(data) != by_schema


@pytest.mark.parametrize("text", ["", "{", "[1e999]", '{"version": 1, "keyframes": [{"time": NaN}]}'])
def test_damaged_files(tmp_path, text):
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(InputError, match="keys.json"):
        keyframes.read(tmp_path / "keys.json")


def test_a_file_of_another_kind_is_known(tmp_path):
    path = str(tmp_path / "keys.json")
    keyframes.write(path, keyframes.parse(EVERYTHING))
    for read in (cameras.load, lambda path: curve(path, F)):
        with pytest.raises(InputError, match="keys.json: is a file of keyframes: give it as --keyframes"):
            read(path)
