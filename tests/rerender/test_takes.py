"""Controls without an effect: what is asked for is refused, a default becomes another and is said."""

import numpy as np
import pytest

from stp_jax import media
from stp_jax.controls import cameras
from stp_jax.errors import InputError
from stp_jax.rerender.flags import parse_flags
from stp_jax.rerender.request import read_notes, read_request
from stp_jax.rerender.takes import Asked, Takes, refuse_idle_controls, refuse_idle_flags, takes
from stp_jax.weights import native
from tests.tiny_model import NOTES

F = 17
OURS = Takes("plucker", True, False, "ours")
PILOT = Takes("pose12", True, True, "SpaceTimePilot 1.3B")
MASTER = Takes("pose12_target", False, True, "ReCamMaster 1.3B")
FLOW_MAP = Takes(flow_map=True)
BLIND = Takes("none", True, False, "a model without cameras")


@pytest.fixture
def file(tmp_path):
    np.savez(
        tmp_path / "path.npz", c2w=cameras.preset("orbit_left", F).c2w, intrinsics=np.array([1, 1, 0.5, 0.5])
    )
    return str(tmp_path / "path.npz")


REFUSED = [
    (
        PILOT,
        {"camera": "zoom_in"},
        "--camera zoom_in: SpaceTimePilot 1.3B is given poses alone, a zoom has no",
    ),
    (MASTER, {"camera": "zoom_out:2"}, "a zoom has no effect"),
    (PILOT, {"fov": 60.0}, "--fov 60: SpaceTimePilot 1.3B is given poses alone"),
    (
        MASTER,
        {"animation_time": "bullet_time"},
        "--animation_time bullet_time: ReCamMaster 1.3B is given no animation",
    ),
    (MASTER, {"animation_time": "0:0, 16:8"}, "is given no animation time"),
    (MASTER, {"source_cameras": "x.npy"}, "--source_cameras: ReCamMaster 1.3B is given the new camera alone"),
    (BLIND, {"camera": "orbit_left"}, "--camera orbit_left: a model without cameras is given no cameras"),
    (BLIND, {"fov": 60.0}, "--fov 60"),
    (
        OURS,
        {"camera": "pan_left", "distance": 3.0},
        "--distance 3: the path of --camera pan_left does not depend",
    ),
    (
        OURS,
        {"camera": "dolly_in:1", "distance": 3.0},
        "--distance 3: the path of --camera dolly_in:1 does not",
    ),
    (OURS, {"camera": "static", "distance": 3.0}, "--distance 3"),
    (OURS, {"camera": "zoom_in", "distance": 3.0}, "--distance 3"),
    (OURS, {"camera": "source", "distance": 3.0}, "--distance 3"),
    (OURS, {"camera": "path.npz", "distance": 3.0}, "--distance 3"),
]
ALLOWED = [
    (OURS, {"camera": "zoom_in", "fov": 60.0}),
    (OURS, {"camera": "pan_left", "distance": 3.0, "source_cameras": "estimate"}),
    (OURS, {"camera": "dolly_in", "distance": 3.0}),
    (OURS, {"camera": "orbit_left:10", "distance": 3.0, "animation_time": "zigzag"}),
    (OURS, {"source_cameras": "x.npy"}),
    (PILOT, {"animation_time": "zigzag", "source_cameras": "x.npy"}),
    (MASTER, {}),
    (MASTER, {"animation_time": "forward"}),
    (MASTER, {"animation_time": "0:0, 16:16"}),
    (MASTER, {"camera": "source", "source_cameras": "x.npy"}),
    (BLIND, {}),
    (BLIND, {"camera": "static"}),
    (BLIND, {"camera": "hold"}),
]


@pytest.mark.parametrize(("model", "asked", "message"), REFUSED)
def test_what_has_no_effect_is_refused(model, asked, message):
    with pytest.raises(InputError, match=message):
        refuse_idle_controls(model, F, Asked("clip.mp4", **asked).of(model))


@pytest.mark.parametrize(("model", "asked"), ALLOWED)
def test_what_has_one_is_not(model, asked):
    refuse_idle_controls(model, F, Asked("clip.mp4", **asked).of(model))


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        (OURS, "--prompt dog", "--prompt: .* takes no text"),
        (OURS, "--negative_prompt dog", "--negative_prompt: .* takes no text"),
        (OURS, "--text_encoder x", "--text_encoder: .* takes no text"),
        (OURS, "--guidance 4", "--guidance 4 has no meaning"),
        (OURS, "--guidance_interval 0.2 0.9", "--guidance_interval has no effect, as nothing is guided"),
        (PILOT, "--guidance_interval 0 1 --guidance 1", "--guidance_interval has no effect"),
        (
            FLOW_MAP,
            "--cache_threshold 0.1",
            "--cache_threshold: the velocity of a flow map is that of one step",
        ),
        (PILOT, "--negative_prompt dog --guidance 1", "--negative_prompt has no effect without guidance"),
        (OURS, "--source_camera_axes opengl", "needs --source_cameras"),
        (OURS, "--source_camera_poses w2c", "needs --source_cameras"),
        (OURS, "--camera_axes opengl", "says how camera files are read, and none is given"),
        (OURS, "--camera orbit_left --camera_poses w2c", "none is given"),
    ],
)
def test_flags_without_an_effect_are_refused(model, flags, message):
    notes = native.SamplingNotes(**NOTES)
    with pytest.raises(InputError, match=message):
        refuse_idle_flags(parse_flags(flags.split()), model, notes)


def test_flags_with_one_are_not():
    notes = native.SamplingNotes(**NOTES)._replace(sampling_guidance=5.0)
    refuse_idle_flags(parse_flags(["--negative_prompt", "dog"]), PILOT, notes)
    refuse_idle_flags(parse_flags(["--guidance", "1"]), OURS, notes)
    refuse_idle_flags(parse_flags(["--guidance_interval", "0.2", "0.9"]), PILOT, notes)
    refuse_idle_flags(parse_flags(["--cache_threshold", "0", "--speed", "draft"]), FLOW_MAP, notes)
    refuse_idle_flags(parse_flags(["--camera", "a.npy", "--camera_axes", "opengl"]), OURS, notes)
    refuse_idle_flags(parse_flags(["--source_cameras", "a.npy", "--camera_axes", "opengl"]), OURS, notes)


def test_the_lens_of_a_file_leaves_no_effect_to_a_field_of_view(tmp_path, file):
    media.write_video(tmp_path / "clip.mp4", np.zeros((F, 16, 16, 3), np.uint8), 10)
    notes = native.SamplingNotes(**NOTES)._replace(frames=F)
    with pytest.raises(InputError, match="--fov 40: .*path.npz has the intrinsics: leave it out"):
        read_request(notes, video=tmp_path / "clip.mp4", source_cameras=file, fov=40.0)
    made = read_request(notes, video=tmp_path / "clip.mp4", camera=file, fov=40.0)
    assert made.source.intrinsics[0, 0] == pytest.approx(0.5 / np.tan(np.radians(20)))


def test_a_model_without_a_clock_runs_forward_and_says_so(tmp_path):
    media.write_video(tmp_path / "clip.mp4", np.zeros((F, 16, 16, 3), np.uint8), 10)
    notes = native.SamplingNotes(**NOTES)._replace(frames=F)
    made = read_request(notes, video=tmp_path / "clip.mp4", model=MASTER)
    np.testing.assert_array_equal(made.target.animation_time, np.arange(F))
    assert "New animation time: forward (ReCamMaster 1.3B is given no animation time)" in made.summary
    made = read_request(notes, video=tmp_path / "clip.mp4", model=OURS)
    assert "New animation time: bullet_time" in made.summary and made.summary.count("\n") == 3


def test_what_models_take_is_read_from_their_config():
    assert takes({}, "t") == Takes("plucker", True, False, "t")
    master = {"camera": "pose12_target", "animation_time": "none", "rope_frames": "stream", "text_dim": 4096}
    assert takes(master, "t") == Takes("pose12_target", False, True, "t")
    assert takes(master | {"rope_frames": "animation_time"}, "t").animation_time
    assert takes({"flow_map": True}, "t").flow_map
    _, bundled = read_notes(native.BUNDLED)
    assert bundled.lens and bundled.animation_time and not bundled.text and not bundled.official


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"frames": 4}, "takes 4n \\+ 1, for instance 1 or 5"),
        ({"size": (100, 130)}, "multiples of 16, for instance 96 x 128"),
        ({"size": (1, 1)}, "for instance 16 x 16"),
        ({"frames": 9997, "size": (9984, 9984)}, "pixels; at most"),
    ],
)
def test_sizes_that_no_video_can_have_are_refused_before_it_is_read(asked, said):
    with pytest.raises(InputError, match=said):
        read_notes(native.BUNDLED, **asked)
    notes, _ = read_notes(native.BUNDLED, frames=9, size=(64, 96))
    assert (notes.frames, notes.width, notes.height) == (9, 64, 96)
