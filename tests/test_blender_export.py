"""launch/blender_export_camera.py: in Blender's Python where it is installed, else what it computes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launch import blender_export_camera as exporter
from stp_jax.controls import cameras
from tests.controls.random_cameras import project, random_cameras

SCRIPT = Path(exporter.__file__)


def test_poses_and_lenses_are_ours(tmp_path):
    """Blender's projection spelt out by its manual: a shift moves the picture by parts of the longer side."""
    c2w, _ = random_cameras(1, 3)
    blender = c2w @ np.diag([1.0, -1, -1, 1])
    focal, sensor, shift_x, shift_y, width, height = 50.0, 36.0, 0.1, -0.2, 160, 96
    left, bottom = -sensor / 2 / focal, -sensor / 2 / focal * height / width
    move = np.array([shift_x, shift_y]) * sensor / focal
    projection = np.zeros((4, 4))  # glFrustum's matrix, near 1
    projection[0, 0], projection[1, 1] = -1 / left, -1 / bottom
    projection[0, 2], projection[1, 2] = move[0] / -left, move[1] / -bottom
    data = {
        "c2w": [exporter.pose_of((pose @ np.diag([1, 1, 1, 1.0])).tolist(), 0.01) for pose in blender],
        "intrinsics": [exporter.lens_of(projection)] * 3,
    }
    (tmp_path / "a.json").write_text(json.dumps(data))
    read = cameras.load(tmp_path / "a.json").cameras
    np.testing.assert_allclose(read.c2w[:, :3, :3], c2w[:, :3, :3], atol=1e-12)
    np.testing.assert_allclose(read.c2w[:, :3, 3], c2w[:, :3, 3] / 100, atol=1e-12)
    # Shifted right, a camera sees what is on its axis left of the middle, by the shift in pictures.
    seen, _ = project(read.c2w[0, :3, 3] + read.c2w[:1, :3, 2], read.c2w[0], read.intrinsics[0])
    np.testing.assert_allclose(seen, [[0.5 - shift_x, 0.5 + shift_y * width / height]], rtol=1e-6)
    np.testing.assert_allclose(read.intrinsics[0, 0], focal / sensor, rtol=1e-6)


@pytest.mark.parametrize(
    "words, in_blender, found",
    [
        (["blender", "a.blend", "--python", "x.py", "--", "c.json"], True, (None, "c.json")),
        (["blender", "a.blend", "--debug"], True, (None, None)),  # in the text editor: Blender's own words
        (["x.py", "a.blend", "c.json"], False, ("a.blend", "c.json")),
        (["x.py", "c.json"], False, (None, "c.json")),
        (["blender", "--", "--frames", "3", "c.json"], True, "Unknown argument '--frames'"),
        (["x.py", "a.blend", "--step=2", "c.json"], False, "Unknown argument '--step=2'"),
        (["x.py", "a.blend", "c.json", "d.json"], False, "Unknown argument 'd.json'"),
        (["x.py", "c.txt"], False, "Unknown argument 'c.txt'"),
        (["x.py", "--help"], False, "Exports the active camera"),
    ],
)
def test_unknown_arguments_are_refused(words, in_blender, found):
    if isinstance(found, tuple):
        assert exporter.arguments(words, in_blender) == found
        return
    with pytest.raises(SystemExit, match=found):
        exporter.arguments(words, in_blender)


SCENE = """
import json, math, runpy, sys
import bpy
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector
out, script = sys.argv[1:3]
scene = bpy.context.scene
scene.frame_start, scene.frame_end, scene.frame_step = 3, 11, 2
scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 320, 240, 50
scene.render.pixel_aspect_x = 1.5
scene.unit_settings.scale_length = 0.5
rig = bpy.data.objects.new("rig", None)
rig.location, rig.scale = (1, 2, 3), (2, 2, 2)
lens = bpy.data.cameras.new("lens")
lens.lens, lens.shift_x, lens.shift_y, lens.sensor_fit, lens.sensor_height = 35, 0.1, -0.05, "VERTICAL", 20
camera = bpy.data.objects.new("camera", lens)
camera.parent = rig
for one in (rig, camera):
    scene.collection.objects.link(one)
scene.camera = camera
for frame, place, turn in ((1, (0, -4, 1), 0.0), (12, (2, -3, 2), 0.5)):
    camera.location, camera.rotation_euler = place, (math.radians(80), 0.1, turn)
    camera.keyframe_insert("location", frame=frame)
    camera.keyframe_insert("rotation_euler", frame=frame)
    lens.lens = 35 + 2 * frame
    lens.keyframe_insert("lens", frame=frame)
scene.frame_set(7)
points = [(1, 3, 4), (2, 6, 2), (0, 9, 6)]
seen = []
sys.argv = [script, out + "/cameras.json"]
runpy.run_path(script, run_name="__main__")
assert scene.frame_current == 7
for frame in range(3, 12, 2):
    scene.frame_set(frame)
    seen.append([list(world_to_camera_view(scene, camera, Vector(point))) for point in points])
# As the script of NeRF's synthetic scenes writes its transforms_train.json.
scene.render.pixel_aspect_x = 1
plain = bpy.data.objects.new("plain", bpy.data.cameras.new("plain"))
plain.location, plain.rotation_euler = (3, -5, 4), (1.1, 0.2, 0.5)
scene.collection.objects.link(plain)
bpy.context.view_layer.update()
frame = {"file_path": "./train/r_0", "transform_matrix": [list(row) for row in plain.matrix_world]}
with open(out + "/transforms_train.json", "w") as file:
    json.dump({"camera_angle_x": plain.data.angle_x, "frames": [frame]}, file)
plainly = [list(world_to_camera_view(scene, plain, Vector(point))) for point in points]
with open(out + "/seen.json", "w") as file:
    json.dump({"points": points, "seen": seen, "plainly": plainly}, file)
"""


@pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="Blender's Python (bpy) is not installed")
def test_blender_projects_points_to_the_same_pixels(tmp_path):
    """A camera on a scaled rig, with an animated, shifted lens; by Blender's own world_to_camera_view."""
    (tmp_path / "scene.py").write_text(SCENE)
    done = subprocess.run(
        [sys.executable, tmp_path / "scene.py", tmp_path, SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "cameras.json: 5 poses for pictures of 160 x 120" in done.stdout
    path = cameras.load(tmp_path / "cameras.json")
    data = json.loads((tmp_path / "seen.json").read_text())
    points = np.array(data["points"]) * 0.5  # metres
    assert len(path.cameras.c2w) == len(data["seen"]) == 5
    for c2w, lens, seen in zip(*path.cameras, data["seen"], strict=True):
        x, y, depth = np.array(seen).T  # from the lower left corner
        pixels, z = project(points, c2w, lens)
        np.testing.assert_allclose(pixels, np.stack([x, 1 - y], 1), atol=1e-5)
        np.testing.assert_allclose(z, depth * 0.5, rtol=1e-5)
    (c2w,), (lens,) = cameras.load(
        tmp_path / "transforms_train.json", reading=cameras.Reading(video=(120, 160))
    ).cameras
    x, y, depth = np.array(data["plainly"]).T
    pixels, z = project(np.array(data["points"]), c2w, lens)
    np.testing.assert_allclose(pixels, np.stack([x, 1 - y], 1), atol=1e-5)
    np.testing.assert_allclose(z, depth, rtol=1e-5)
