"""`python -m stp_jax.evaluate --cam_x_time`: the published set from its folder to figures."""

import csv
import json

import av
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from stp_jax import media
from stp_jax.evaluate.cam_x_time_folder import MODES, read_frames, target_animation_time
from stp_jax.evaluate.cases import TIME
from stp_jax.evaluate.command import main
from stp_jax.evaluate.rows import NEAREST, SOURCE
from stp_jax.media.metrics import psnr, psnr_frames
from stp_jax.rerender.rerenderer import Rerenderer
from tests.evaluate.test_cam_x_time_folder import SCENES, write_set
from tests.tiny_model import FRAMES, SIZE, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "CamxTime_eval", size=(24, 40))


def test_command_line_evaluates_the_published_set(folder, tmp_path, capsys, monkeypatch, without_lpips):
    monkeypatch.setattr("stp_jax.devices.hardware.use_compilation_cache", lambda: None)
    prompts = []

    def darker(self, video, source, target, *, prompt, seed):
        """Instead of the model, which would be compiled for long."""
        assert target.c2w is None and len(target.animation_time) == FRAMES
        assert len(source.c2w) == len(source.animation_time) == FRAMES
        prompts.append(prompt)
        return video // 2

    monkeypatch.setattr(Rerenderer, "__call__", darker)
    monkeypatch.setattr(Rerenderer, "reconstruct", lambda self, video: video)
    weights, out = str(write_tiny_model(tmp_path / "tiny")), tmp_path / "out"
    command = ["--cam_x_time", str(folder), "--weights", weights, "--out", str(out), "--sheets", "1"]
    main(command)
    result = json.loads((out / "metrics.json").read_text())
    assert list(result["means"]) == [TIME] and list(result["cases"][TIME]) == list(MODES)
    assert result["scenes"] == len(SCENES)
    with open(out / "per_scene.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == SOURCE]
    assert len(rows) == len(SCENES) * len(MODES)
    for row in rows:
        videos = folder / "eval_input" / "videos" / f"{row['scene']}.mp4"
        truth = folder / "eval_gt_wan2.1_format" / row["scene"] / MODES[row["mode"]][1]
        pair = [read_frames(path, FRAMES, SIZE, SIZE) for path in (videos, truth)]
        assert float(row["psnr"]) == pytest.approx(psnr(*pair))
        assert float(row["psnr_frames"]) == pytest.approx(psnr_frames(*pair))
    assert prompts == [f"a scene, {scene}" for scene in SCENES for _ in MODES]
    tiny = result["cases"][TIME]["reverse"]["tiny"]
    assert 3 < tiny["psnr"]["mean"] < tiny["psnr_frames"]["mean"] < 25
    assert (out / "sheets" / f"{SCENES[0]}_time_control_slow_motion.png").exists()
    assert "by case" in capsys.readouterr().out
    np.testing.assert_array_equal(target_animation_time("reverse", FRAMES), [4, 3, 2, 1, 0])


def write_disturbed(folder, truths):
    """Each truth, brighter by as many grey values as its frame's number modulo 5, plus 1."""
    for path in truths.glob("*/*.mp4"):
        video, _ = media.read_video(path)
        steps = 1 + np.arange(len(video), dtype=np.uint8) % 5
        target = folder / path.relative_to(truths)
        target.parent.mkdir(parents=True, exist_ok=True)
        media.write_video(target, video + steps[:, None, None, None], 30, crf=1, pixel_format="yuv444p")
    return folder


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_videos_of_others_are_scored(folder, tmp_path, capsys, monkeypatch, without_lpips):
    """At their own size: 81 frames, here of small pictures, of which the truth itself is one method."""
    monkeypatch.setattr("stp_jax.devices.hardware.use_compilation_cache", lambda: None)
    for module in ("cam_x_time_folder", "cam_x_time_run"):
        monkeypatch.setattr(f"stp_jax.evaluate.{module}.HEIGHT", 24)
        monkeypatch.setattr(f"stp_jax.evaluate.{module}.WIDTH", 40)
    truths, out = folder / "eval_gt_wan2.1_format", tmp_path / "out"
    brighter = write_disturbed(tmp_path / "brighter", truths)
    command = ["--cam_x_time", str(folder), "--out", str(out), "--sheets", "1", "--measures"]
    main([*command, "--videos", str(truths), str(brighter)])
    result = json.loads((out / "metrics.json").read_text())
    assert result["settings"]["data"]["frames"] == 81 and result["settings"]["weights"] == {}
    assert list(result["settings"]["videos"]) == ["eval_gt_wan2.1_format", "brighter"]
    means = result["means"][TIME]
    assert list(means) == ["eval_gt_wan2.1_format", "brighter", NEAREST, SOURCE]  # no VAE, so no ceiling
    assert means["eval_gt_wan2.1_format"]["psnr"]["mean"] is None  # equal videos: infinite
    expected: dict[str, list[float]] = {}
    for mode, (_, name) in MODES.items():
        for scene in SCENES:
            frames = zip(*(frames_of(path / scene / name) for path in (truths, brighter)), strict=True)
            values = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in frames]
            expected.setdefault(mode, []).append(float(np.mean(values)))
    for mode, found in result["as_published"]["brighter"].items():
        values = np.concatenate(list(expected.values())) if mode == "mean" else expected[mode]
        assert found["mean"] == pytest.approx(np.mean(values), abs=1e-6)
        assert found["std"] == pytest.approx(np.std(values), abs=1e-6)
        assert found["videos"] == len(values)
    assert (out / "videos" / f"{SCENES[0]}_time_control_zigzag.mp4").exists()
    assert "20 videos in all" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command[:3], str(tmp_path / "two"), "--videos", str(tmp_path), "--measures"])
    error = capsys.readouterr().err
    assert "kitchen_01/moving_bullettime.mp4 is not there, nor are 9 others" in error
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--cam_x_time nowhere --split test", "--split"),
        ("--cam_x_time nowhere --measures time", "--measures time needs a grid"),
        ("--config configs/demo.py --videos somewhere", "--videos"),
        ("--cam_x_time nowhere --videos a a/.", "--videos: a is given twice"),
        ("--cam_x_time nowhere --config configs/demo.py", "not allowed with"),
        ("--config configs/demo.py --fov 40", "--fov"),
        ("", "required"),
    ],
)
def test_flags_that_do_not_go_together(capsys, flags, message):
    with pytest.raises(SystemExit) as exit_:
        main(flags.split())
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and message in error and error.count("\n") == 1
