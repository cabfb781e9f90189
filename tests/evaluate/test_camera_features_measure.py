"""Camera paths by features as a measure: figures in closed form, and on the Cam x Time set."""

import csv
import json
import shutil

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stp_jax import media
from stp_jax.evaluate import camera_features
from stp_jax.evaluate.cam_x_time_folder import MODES
from stp_jax.evaluate.camera_features_measure import CameraFeatures, figures_of
from stp_jax.evaluate.cases import TIME
from stp_jax.evaluate.command import main
from stp_jax.evaluate.rows import TRUTH, Row
from tests.evaluate.test_cam_x_time_folder import SCENES, write_set
from tests.textured_planes import HEIGHT, WIDTH, film, path


def poses(degrees, metres=0.0):
    """c2w of cameras turned about the vertical, and moved to the right."""
    degrees = np.asarray(degrees, np.float64)
    c2w = np.tile(np.eye(4), (len(degrees), 1, 1))
    vectors = np.radians(degrees)[:, None] * [0, 1, 0]
    c2w[:, :3, :3] = Rotation.from_rotvec(vectors).as_matrix()
    c2w[:, 0, 3] = metres
    return c2w


def found_as(c2w, found=None, parallax=True):
    found = np.ones(len(c2w), bool) if found is None else np.array(found)
    c2w = np.where(found[:, None, None], c2w, np.nan)
    return camera_features.CameraPath(c2w, found, parallax)


def test_figures_of_a_path_that_turns_too_far():
    commanded = poses([0, 10, 20, 30], np.arange(4.0))
    achieved = poses([0, 12, np.nan, 36], 5 * np.arange(4.0))
    values = figures_of(found_as(achieved, [True, True, False, True]), commanded)
    assert values["frames_found"] == 0.75
    assert values["rotation"] == pytest.approx((2 + 6) / 2)
    assert values["rotation_of_pairs"] == pytest.approx((2 + 6 + 4) / 3)
    assert values["translation_of_extent"] == pytest.approx(0, abs=1e-9)  # up to one scale
    np.testing.assert_allclose(values["from_first.commanded_angle"], [10, 30])
    np.testing.assert_allclose(values["from_first.achieved_angle"], [12, 36])


def test_what_is_not_found_is_not_a_number():
    nothing = figures_of(found_as(poses([0, 10]), [False, False]), poses([0, 10]))
    assert nothing["frames_found"] == 0 and nothing["from_first.achieved_angle"] == []
    assert all(np.isnan(nothing[name]) for name in ("rotation", "rotation_of_pairs", "translation_of_extent"))
    turning = figures_of(found_as(poses([0, 10]), parallax=False), poses([0, 10], [0, 1]))
    assert turning["rotation"] == pytest.approx(0, abs=1e-6) and np.isnan(turning["translation_of_extent"])


def test_gain_is_a_slope_over_all_scenes(tmp_path):
    rows = []
    for number, gain in enumerate((1.5, 1.3, 1.7)):
        commanded = poses([0, 10, 20])
        values = figures_of(found_as(poses([0, 10 * gain, 20 * gain])), commanded)
        rows.append(Row(f"s{number}", TIME, "reverse", "a", values))
        rows.append(Row(f"s{number}", TIME, "reverse", TRUTH, figures_of(found_as(commanded), commanded)))
        nothing = figures_of(found_as(commanded, [False] * 3), commanded)
        rows.append(Row(f"s{number}", TIME, "reverse", "lost", nothing))
    measure = CameraFeatures()
    summary = measure.summarise(rows)[TIME]
    assert summary["a"]["rotation_gain_from_first"]["mean"] == pytest.approx(1.5)
    assert summary[TRUTH]["rotation_gain_from_first"]["mean"] == pytest.approx(1)
    assert summary["lost"]["frames_found"]["mean"] == 0 and "rotation" not in summary["lost"]
    assert np.isnan(summary["lost"]["rotation_gain_from_first"]["mean"])
    measure.plot(rows, measure.summarise(rows), tmp_path)
    assert (tmp_path / "camera_features.png").exists()
    assert "frames_found" in measure.table(measure.summarise(rows))


def test_without_the_package_it_is_left_out_by_name(tmp_path, capsys, monkeypatch, without_lpips):
    monkeypatch.setattr("stp_jax.devices.hardware.use_compilation_cache", lambda: None)
    monkeypatch.setattr("stp_jax.evaluate.camera_features.load", lambda: None)
    monkeypatch.setattr("stp_jax.evaluate.fvd.load", lambda: None)
    monkeypatch.setattr("stp_jax.evaluate.cam_x_time_run.FRAMES", 5)  # every 20th
    for module in ("cam_x_time_folder", "cam_x_time_run"):
        monkeypatch.setattr(f"stp_jax.evaluate.{module}.HEIGHT", 48)
        monkeypatch.setattr(f"stp_jax.evaluate.{module}.WIDTH", 80)
    folder = write_set(tmp_path / "CamxTime_eval")
    command = ["--cam_x_time", str(folder), "--scenes", "1", "--sheets", "0"]
    command += ["--videos", str(folder / "eval_gt_wan2.1_format"), "--out", str(tmp_path / "out")]
    main(command)
    reason = "pycolmap is not installed (pip install 'stp-jax[eval]')."
    assert f"camera_features is left out: {reason}\n" in capsys.readouterr().out
    left_out = json.loads((tmp_path / "out" / "metrics.json").read_text())["left_out"]
    assert left_out["camera_features"] == reason and "fvd" in left_out
    with pytest.raises(SystemExit):
        main([*command[:-1], str(tmp_path / "other"), "--measures", "camera_features"])
    assert capsys.readouterr().err == f"error: --measures camera_features: {reason}\n"


def write_orbit(folder, degrees):
    """Videos of all modes: an orbit through textured planes, where nothing moves by itself; its poses."""
    filmed = path(f"orbit_left:{degrees}", 81)
    frames = np.arange(0, 81, 20)
    shown = film(filmed[frames])[np.rint(np.arange(81) / 20).astype(int)]  # those between are not looked at
    (folder / SCENES[0]).mkdir(parents=True)
    first, *others = (folder / SCENES[0] / name for _, name in MODES.values())
    media.write_video(first, shown, 30, crf=10)
    for other in others:
        shutil.copy(first, other)
    return filmed


def write_filmed_set(folder, degrees):
    """The set with one scene; the file of poses has Blender's axes."""
    filmed = write_orbit(folder / "eval_gt", degrees)
    inputs = folder / "eval_input"
    for name in ("videos", f"src_cam/{SCENES[0]}"):
        (inputs / name).mkdir(parents=True)
    (inputs / "metadata.csv").write_text(f"file_name,text\n{SCENES[0]}.mp4,planes\n")
    shutil.copy(folder / "eval_gt" / SCENES[0] / MODES["zigzag"][1], inputs / "videos" / f"{SCENES[0]}.mp4")
    blender = np.linalg.inv(filmed @ np.diag([1, -1, -1, 1]))
    extrinsic = {f"camera_{i:03d}": w2c.tolist() for i, w2c in enumerate(blender)}
    poses_file = inputs / "src_cam" / SCENES[0] / "camera_data.json"
    poses_file.write_text(json.dumps({"cameras": {"extrinsic": extrinsic}}))
    return folder


def test_on_the_cam_x_time_set_cameras_are_found(tmp_path, monkeypatch, without_lpips):
    """Of one mode: the truth has the commanded path, another video half of its angle."""
    pytest.importorskip("pycolmap", reason="the extra eval is not installed")
    monkeypatch.setattr("stp_jax.devices.hardware.use_compilation_cache", lambda: None)
    monkeypatch.setattr("stp_jax.evaluate.cam_x_time_run.FRAMES", 5)  # every 20th
    monkeypatch.setattr(CameraFeatures, "degraded", False)
    monkeypatch.setattr("stp_jax.evaluate.cam_x_time_run.MODES", {"zigzag": MODES["zigzag"]})
    for module in ("cam_x_time_folder", "cam_x_time_run"):
        monkeypatch.setattr(f"stp_jax.evaluate.{module}.HEIGHT", HEIGHT)
        monkeypatch.setattr(f"stp_jax.evaluate.{module}.WIDTH", WIDTH)
    folder = write_filmed_set(tmp_path / "CamxTime_eval", 20)
    write_orbit(tmp_path / "half", 10)
    out = tmp_path / "out"
    command = ["--cam_x_time", str(folder), "--videos", str(tmp_path / "half"), "--out", str(out)]
    main([*command, "--sheets", "0", "--measures", "camera_features"])
    result = json.loads((out / "metrics.json").read_text())
    assert result["settings"]["measures"] == ["camera_features"] and result["left_out"] == {}
    found = result["measures"]["camera_features"][TIME]
    assert list(found) == ["half", TRUTH]
    for method, gain in (("half", 0.5), (TRUTH, 1.0)):
        figures = {name: figure["mean"] for name, figure in found[method].items()}
        assert figures["frames_found"] == 1
        assert figures["rotation_gain_from_first"] == pytest.approx(gain, abs=0.03)
        assert figures["rotation"] == pytest.approx(20 * (1 - gain) * np.mean([1, 2, 3, 4]) / 4, abs=0.5)
    assert found[TRUTH]["translation_of_extent"]["mean"] < 0.02
    with open(out / "per_scene.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows[TRUTH]["camera_features.frames_found"]) == 1
    assert "Camera fidelity by features" in (out / "table.txt").read_text()
    assert (out / "plots" / "camera_features.png").exists()
