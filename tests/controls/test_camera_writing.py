"""Camera paths that are written: as nerfstudio's own code takes them."""

import json

import numpy as np

from stp_jax.controls import cameras
from stp_jax.controls.formats.writing import to_nerfstudio, to_ours
from tests.controls.random_cameras import project, random_cameras

F = 5
SIZE = (160, 96)
LENS = np.array([130 / 160, 130 / 96, 0.5, 0.5])


def path():
    return cameras.Cameras(random_cameras(5, F)[0], np.tile(LENS, (F, 1)))


def test_nerfstudio_reads_the_path_as_it_was(tmp_path):
    """By hand as in nerfstudio/cameras/camera_paths.py: focal length of "fov" and "render_height", OpenGL."""
    data = json.loads(json.dumps(to_nerfstudio(path(), SIZE, 8.0)))
    assert (data["render_width"], data["render_height"], data["fps"], data["seconds"]) == (160, 96, 8, F / 8)
    for i, (camera, key) in enumerate(zip(data["camera_path"], data["keyframes"], strict=True)):
        focal = data["render_height"] / 2 / np.tan(np.radians(camera["fov"]) / 2)
        np.testing.assert_allclose(focal, 130)
        c2w = np.array(camera["camera_to_world"]).reshape(4, 4)
        # A ray of nerfstudio's: pixels right and up of the middle, and -z.
        direction = c2w[:3, :3] @ [(100 - 80) / focal, -(70 - 48) / focal, -1]
        point = c2w[:3, 3] + 3 * direction
        pixel, depth = project(point[None], path().c2w[i], LENS)
        np.testing.assert_allclose(pixel * SIZE, [[100, 70]], atol=1e-9)
        np.testing.assert_allclose(depth, 3)
        # What its viewer's "Load Path" takes.
        assert key["matrix"] == camera["camera_to_world"] and key["fov"] == data["default_fov"]
        assert key["aspect"] == SIZE[0] / SIZE[1]


def test_written_files_are_read_back(tmp_path):
    for name, data in (("a.json", to_ours(path(), SIZE)), ("b.json", to_nerfstudio(path(), SIZE, 24))):
        (tmp_path / name).write_text(json.dumps(data))
        read = cameras.load(tmp_path / name)
        np.testing.assert_allclose(read.cameras.c2w, path().c2w, atol=1e-12)
        np.testing.assert_allclose(read.cameras.intrinsics, path().intrinsics, rtol=1e-6)
