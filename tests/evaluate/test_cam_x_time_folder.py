"""The evaluation set of Cam x Time, written in its layout: what is read, given to a model, and averaged."""

import csv
import json
import shutil

import numpy as np
import pytest

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.evaluate import cam_x_time_folder as folder_of
from stp_jax.evaluate.cam_x_time_run import evaluate_cam_x_time
from stp_jax.evaluate.cases import TIME
from stp_jax.evaluate.scores import Model
from stp_jax.official.poses import official_poses
from stp_jax.rerender.rerenderer import Rerenderer
from tests.official.test_models import write_models

FRAMES, HEIGHT, WIDTH = 9, 32, 48
TRUTHS = {"bullettime": "bullet_time", "forward": "forward", "backward": "reverse", "slowmo": "slow_motion"}
TRUTHS |= {"zigzag": "zigzag"}
SCENES = ("kitchen_01", "park_02")


def video_of(animation_time, shade, size=(48, 80)):
    """uint8 [F, 48, 80, 3]: green encodes the animation time, red the column, blue the scene."""
    x = np.tile(np.arange(size[1]) * 3, (size[0], 1))
    frames = [np.stack([x, np.full_like(x, 20 + 2 * m), np.full_like(x, shade)], -1) for m in animation_time]
    return np.stack(frames).astype(np.uint8)


def world_to_camera(frame):
    """Of a camera that moves to the right and turns: Blender's axes."""
    angle = np.radians(0.5 * frame)
    c2w = np.eye(4)
    c2w[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    c2w[:3, 3] = 0.05 * frame, 1, 4
    return np.linalg.inv(c2w)


def write_set(folder, truths="eval_gt_wan2.1_format", size=(48, 80)):
    """As it is published, with small pictures of a size (height, width)."""
    inputs = folder / "eval_input"
    (inputs / "videos").mkdir(parents=True)
    with open(inputs / "metadata.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "text"])
        rows.writerows([f"{scene}.mp4", f"a scene, {scene}"] for scene in SCENES)
    patterns = {
        "bullettime": [40] * 81,
        "forward": list(range(81)),
        "backward": list(range(80, -1, -1)),
        "slowmo": [0] + [i for i in range(1, 41) for _ in range(2)],
        "zigzag": [*range(41), *range(39, -1, -1)],
    }
    for number, scene in enumerate(SCENES):
        options = {"fps": 30, "crf": 1, "pixel_format": "yuv444p"}
        shade = 60 + 90 * number
        media.write_video(inputs / "videos" / f"{scene}.mp4", video_of(range(84), shade, size), **options)
        poses = {f"camera_{i:03d}": world_to_camera(i).tolist() for i in range(90)}
        (inputs / "src_cam" / scene).mkdir(parents=True)
        path = inputs / "src_cam" / scene / "camera_data.json"
        path.write_text(json.dumps({"cameras": {"extrinsic": poses}}))
        (folder / truths / scene).mkdir(parents=True)
        for name, animation_time in patterns.items():
            path = folder / truths / scene / f"moving_{name}.mp4"
            media.write_video(path, video_of(animation_time, shade, size), **options)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "CamxTime_eval")


def test_videos_of_others_are_found_by_the_names_of_the_truth(folder, tmp_path):
    scenes = folder_of.read_folder(folder)
    found = folder_of.find_videos(folder / "eval_gt_wan2.1_format", scenes)
    assert found == {(s.name, mode): s.truths[mode] for s in scenes for mode in folder_of.MODES}
    videos = tmp_path / "videos"
    shutil.copytree(folder / "eval_gt_wan2.1_format", videos)
    damage(videos, "park_02/moving_zigzag.mp4")
    with pytest.raises(InputError, match=r"--videos: .*park_02/moving_zigzag.mp4 has 60 frames"):
        folder_of.find_videos(videos, scenes)
    (videos / "park_02" / "moving_zigzag.mp4").unlink()
    with pytest.raises(InputError, match=r"--videos: .*park_02/moving_zigzag.mp4 is not there; videos are"):
        folder_of.find_videos(videos, scenes)
    assert len(folder_of.find_videos(videos, scenes[:1])) == 5


def test_the_summary_averages_over_scenes():
    means = folder_of.summary([("forward", "a", 20.0), ("forward", "b", 26.0), ("zigzag", "a", 17.0)])
    assert means["forward"] == {"mean": 23.0, "std": 3.0, "videos": 2}
    assert means["mean"]["mean"] == pytest.approx(21) and means["mean"]["videos"] == 3


def test_what_a_model_is_given(folder, tmp_path, without_lpips):
    calls = []

    def rerender(*given, **options):
        calls.append((given, options))
        return given[0]

    model = Model("copy", rerender, None, size=(FRAMES, HEIGHT, WIDTH))
    evaluate_cam_x_time([model], folder.parent, scenes=None, sheets=0, out=tmp_path / "out", settings={})
    cases = [(scene, mode) for scene in SCENES for mode in folder_of.MODES]
    for (given, options), (scene, mode) in zip(calls, cases, strict=True):
        video, source, target = given
        assert target.c2w is None and target.intrinsics is None  # those of the source
        assert options == {"prompt": f"a scene, {scene}", "seed": 0}
        assert source.animation_time.tolist() == list(range(FRAMES))
        np.testing.assert_array_equal(target.animation_time, folder_of.target_animation_time(mode, FRAMES))
        # Every tenth frame; green is 20 + 2 * time.
        assert video.shape == (FRAMES, HEIGHT, WIDTH, 3)
        np.testing.assert_allclose(video[:, 16, 24, 1], 20 + 20 * source.animation_time, atol=2)
        truth = folder / "eval_gt_wan2.1_format" / scene / folder_of.MODES[mode][1]
        shown = folder_of.read_frames(truth, FRAMES, HEIGHT, WIDTH)
        np.testing.assert_allclose(shown[:, 16, 24, 1], 20 + 20 * target.animation_time, atol=2)
        expected = np.stack([np.linalg.inv(world_to_camera(10 * i)) for i in range(FRAMES)])
        mirror, flip = np.diag([-1, 1, 1, 1]), np.diag([1, -1, -1, 1])
        np.testing.assert_allclose(source.c2w, mirror @ expected @ flip, atol=1e-6)


def test_at_81_frames_the_times_are_the_official_ones():
    assert folder_of.target_animation_time("slow_motion", 81)[:6].tolist() == [0, 1, 1, 2, 2, 3]
    assert folder_of.target_animation_time("bullet_time", 81).tolist() == [40] * 81
    assert folder_of.target_animation_time("zigzag", 81)[38:43].tolist() == [38, 39, 40, 39, 38]
    official = [0] + [i for i in range(1, 41) for _ in range(2)]
    assert folder_of.target_animation_time("slow_motion", 17) == pytest.approx(np.array(official[::5]) / 5)
    with pytest.raises(InputError, match="a model of 13 frames .* 41, 21, 17, 9 or 5"):
        folder_of.target_animation_time("zigzag", 13)


def test_pictures_are_cut_to_the_official_size_first(tmp_path):
    """Of a square, 832 x 480 keeps the middle rows; a square model then the middle of these."""
    y, x = np.mgrid[:104, :104]
    square = np.stack([2 * x, 2 * y, 0 * x], -1).astype(np.uint8)
    path = tmp_path / "square.mp4"
    media.write_video(path, np.stack([square] * 81), 30, crf=1, pixel_format="yuv444p")
    frame = folder_of.read_frames(path, 5, 32, 32)[0].astype(float)
    kept = 104 * 480 / 832
    edges = 2 * (52 + kept * (np.array([0.5, 31.5]) / 32 - 0.5) - 0.5)
    np.testing.assert_allclose(frame[16, [0, -1], 0], edges, atol=3)
    np.testing.assert_allclose(frame[[0, -1], 16, 1], edges, atol=3)


def test_a_model_in_the_official_form_is_evaluated(folder, tmp_path, monkeypatch, without_lpips):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = write_models(tmp_path / "weights", "spacetimepilot")
    options = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH, "dtype": "float32"}
    model = Rerenderer(weights, **options, steps=1, guidance=1)
    received = []
    condition = model._sampler.condition
    model._sampler.condition = lambda state, views, *rest, **more: (
        received.append(views) or condition(state, views, *rest, **more)
    )
    out = tmp_path / "out"
    model = Model("official", model, None, size=(FRAMES, HEIGHT, WIDTH))
    evaluate_cam_x_time([model], folder, scenes=1, sheets=0, out=out, settings={})
    result = json.loads((out / "metrics.json").read_text())
    psnr = {mode: methods["official"]["psnr"] for mode, methods in result["cases"][TIME].items()}
    assert list(psnr) == list(folder_of.MODES)
    assert all(value["scenes"] == 1 and 0 < value["mean"] < 40 for value in psnr.values())
    c2w = np.stack([np.linalg.inv(world_to_camera(10 * i)) for i in range(FRAMES)])
    mirrored = np.diag([-1, 1, 1, 1]) @ c2w @ np.diag([1, -1, -1, 1])
    expected = official_poses(mirrored, None, scale_source=False)[0]
    views = received[list(folder_of.MODES).index("reverse")]
    for view in views:
        np.testing.assert_allclose(view.c2w[0], expected, atol=1e-5)
    assert views[0].animation_time[0].tolist() == list(range(8, -1, -1))


def damage(folder, name):
    path = folder / name
    if path.suffix == ".mp4":
        video, _ = media.read_video(path)
        path.unlink()
        media.write_video(path, video[:60], 30)
    elif path.suffix == ".json":
        data = json.loads(path.read_text())
        data["cameras"]["extrinsic"].pop("camera_089")
        data["cameras"]["extrinsic"] = dict(list(data["cameras"]["extrinsic"].items())[:70])
        path.write_text(json.dumps(data))
    else:
        path.write_text("name,words\na,b\n")


MISTAKES = {
    "eval_gt_wan2.1_format/park_02/moving_zigzag.mp4": "has 60 frames",
    "eval_input/videos/park_02.mp4": "has 60 frames",
    "eval_input/src_cam/park_02/camera_data.json": "has 70 poses",
    "eval_input/metadata.csv": "file_name and text",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_damaged_and_missing_files_are_named(folder, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy, name)
    with pytest.raises(InputError, match=f"{name}.* {MISTAKES[name]}"):
        for scene in folder_of.read_folder(copy):
            folder_of.read_source(scene, FRAMES, HEIGHT, WIDTH)
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        folder_of.read_folder(copy)


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no folder eval_input"):
        folder_of.read_folder(tmp_path)
    (tmp_path / "eval_input").mkdir()
    with pytest.raises(InputError, match=r"no folder eval_gt_wan2.1_format or eval_gt"):
        folder_of.read_folder(tmp_path)
    with pytest.raises(InputError, match="--scenes 3: .* has 2 scenes"):
        folder_of.read_folder(folder, scenes=3)
    shutil.copytree(folder, tmp_path / "squares")
    (tmp_path / "squares" / "eval_gt_wan2.1_format").rename(tmp_path / "squares" / "eval_gt")
    assert "eval_gt" in folder_of.read_folder(tmp_path / "squares")[0].truths["zigzag"].parts
