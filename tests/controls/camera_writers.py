"""Writes cameras as other programs do, by their documents alone: numpy and text, nothing of stp_jax.

A writer is called with a folder, c2w [F, 4, 4] in OpenCV axes, one lens (f, cx, cy) in pixels and the width
and height of the picture, and returns what is given to --camera.
"""

import json
import struct

import numpy as np
from scipy.spatial.transform import Rotation

GL = np.diag([1.0, -1, -1, 1])


def matrix(lens):
    f, cx, cy = lens
    return np.array([[f, 0, cx], [0, f, cy], [0, 0, 1.0]])


def as_json(path, value):
    path.write_text(json.dumps(value))
    return path


def lines(path, rows, head=""):
    path.write_text(head + "\n".join(" ".join(f"{x:.12g}" for x in row) for row in rows) + "\n")
    return path


def ours(folder, c2w, lens, size):
    data = {"c2w": c2w.tolist(), "intrinsics": [lens[0], *lens], "width": size[0], "height": size[1]}
    return as_json(folder / "ours.json", data)


def ours_npz(folder, c2w, lens, size):
    np.savez(folder / "ours.npz", c2w=c2w[:, :3], intrinsics=matrix(lens), w=size[0], h=size[1])
    return folder / "ours.npz"


def matrix_list(folder, c2w, lens, size):
    return as_json(folder / "list.json", c2w.tolist())


def matrix_list_3x4(folder, c2w, lens, size):
    return as_json(folder / "list34.json", c2w[:, :3].tolist())


def array_3x4(folder, c2w, lens, size):
    np.save(folder / "a.npy", c2w[:, :3])
    return folder / "a.npy"


def array_of_a_batch(folder, c2w, lens, size):
    np.save(folder / "b.npy", c2w[None])
    return folder / "b.npy"


def lines_of_16(folder, c2w, lens, size):
    return lines(folder / "m.txt", c2w.reshape(-1, 16))


def nerfstudio(folder, c2w, lens, size):
    frames = [
        {"file_path": f"images/frame_{i + 1}.png", "transform_matrix": (pose @ GL).tolist()}
        for i, pose in enumerate(c2w)
    ]
    frames = frames[3:] + frames[:3]  # as COLMAP found them: in no order
    data = {"camera_model": "OPENCV", "w": size[0], "h": size[1], "fl_x": lens[0], "fl_y": lens[0]}
    data |= {"cx": lens[1], "cy": lens[2], "k1": 0.01, "k2": 0, "frames": frames}
    return as_json(folder / "transforms.json", data)


def nerfstudio_by_frame(folder, c2w, lens, size):
    each = {"w": size[0], "h": size[1], "fl_x": lens[0], "fl_y": lens[0], "cx": lens[1], "cy": lens[2]}
    frames = [each | {"transform_matrix": (pose @ GL).tolist()} for pose in c2w]
    return as_json(folder / "t2.json", {"frames": frames})


def blender(folder, c2w, lens, size):
    angle = 2 * np.arctan(size[0] / 2 / lens[0])
    frames = [
        {"file_path": f"./train/r_{i}", "rotation": 0.01, "transform_matrix": (pose @ GL).tolist()}
        for i, pose in enumerate(c2w)
    ]
    return as_json(folder / "transforms_train.json", {"camera_angle_x": angle, "frames": frames})


def camera_path(folder, c2w, lens, size):
    fov = np.degrees(2 * np.arctan(size[1] / 2 / lens[0]))
    path = [
        {"camera_to_world": (pose @ GL).ravel().tolist(), "fov": fov, "aspect": size[0] / size[1]}
        for pose in c2w
    ]
    data = {
        "camera_type": "perspective",
        "render_height": size[1],
        "render_width": size[0],
        "camera_path": path,
    }
    return as_json(folder / "camera_path.json", data | {"fps": 24, "seconds": 2, "keyframes": []})


def cam_x_time(folder, c2w, lens, size):
    poses = {str(i): {"frame": i, "c2w": pose.tolist()} for i, pose in enumerate(c2w @ GL)}
    data = {"intrinsics": {"K": matrix(lens).tolist(), "width": size[0], "height": size[1]}}
    return as_json(folder / "camera-trajectory-01-camera.json", data | {"trajectory": poses})


def cam_x_time_evaluation(folder, c2w, lens, size):
    cameras = {
        str(i): {"c2w": pose.tolist(), "w2c": np.linalg.inv(pose).tolist()} for i, pose in enumerate(c2w @ GL)
    }
    lens = {"fx": lens[0], "fy": lens[0], "cx": lens[1], "cy": lens[2], "width": size[0], "height": size[1]}
    data = {"n_cameras": len(c2w), "intrinsics": lens, "cameras": cameras}
    return as_json(folder / "camera_data.json", data)


def realestate(folder, c2w, lens, size):
    w2c = np.linalg.inv(c2w)[:, :3].reshape(-1, 12)
    f, cx, cy = lens
    rows = [
        [40_000 * i, f / size[0], f / size[1], cx / size[0], cy / size[1], 0, 0, *w]
        for i, w in enumerate(w2c)
    ]
    return lines(folder / "re10k.txt", rows, "https://www.example.org/watch?v=x\n")


def tum(folder, c2w, lens, size):
    q = Rotation.from_matrix(c2w[:, :3, :3]).as_quat()  # x y z w
    rows = [[0.04 * i, *t, *x] for i, (t, x) in enumerate(zip(c2w[:, :3, 3], q, strict=True))]
    return lines(folder / "tum.txt", rows, "# timestamp tx ty tz qx qy qz qw\n")


def kitti(folder, c2w, lens, size):
    return lines(folder / "00.txt", c2w[:, :3].reshape(-1, 12))


def megasam(folder, c2w, lens, size):
    pictures = np.zeros((len(c2w), size[1], size[0], 3), np.uint8)
    np.savez_compressed(
        folder / "m.npz", images=pictures, intrinsic=matrix(lens), cam_c2w=c2w, depths=np.zeros(3)
    )
    return folder / "m.npz"


def vggt(folder, c2w, lens, size):
    w2c = np.linalg.inv(c2w)[:, :3]
    pictures = np.zeros((len(c2w), 3, size[1], size[0]), np.float32)
    k = np.tile(matrix(lens), (len(c2w), 1, 1))
    np.savez_compressed(
        folder / "v.npz", extrinsic=w2c[None], intrinsic=k[None], images=pictures, pose_enc=w2c
    )
    return folder / "v.npz"


def vipe(folder, c2w, lens, size):
    for name, data in (("pose", c2w), ("intrinsics", np.tile([lens[0], *lens], (len(c2w), 1)))):
        (folder / name).mkdir()
        np.savez(folder / name / "clip.npz", data=data, inds=np.arange(len(c2w)))
    return folder / "pose" / "clip.npz"


def uni3c(folder, c2w, lens, size):
    data = {"intrinsic": matrix(lens).tolist(), "extrinsic": np.linalg.inv(c2w).tolist()}
    return as_json(folder / "cam_info.json", data | {"height": size[1], "width": size[0]})


def _colmap(c2w):
    """w x y z and translation of each image."""
    w2c = np.linalg.inv(c2w)
    return np.concatenate([Rotation.from_matrix(w2c[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]], w2c[:, :3, 3]], 1)


def colmap_text(folder, c2w, lens, size):
    f, cx, cy = lens
    (folder / "cameras.txt").write_text(
        "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
        f"1 SIMPLE_RADIAL {size[0]} {size[1]} {f!r} {cx!r} {cy!r} 0\n"
    )
    text = "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n#   POINTS2D[] as (X, Y, POINT3D_ID)\n"
    poses = _colmap(c2w)
    for i in reversed(range(len(c2w))):  # ids are in no order
        points = "" if i % 2 else "10.5 20.5 -1 30.0 40.0 7"
        text += f"{i + 1} {' '.join(f'{x:.15g}' for x in poses[i])} 1 frame {i + 1:04d}.png\n{points}\n"
    (folder / "images.txt").write_text(text)
    return folder / "images.txt"


def colmap_binary(folder, c2w, lens, size):
    place = folder / "project" / "sparse" / "0"
    place.mkdir(parents=True)
    f, cx, cy = lens
    (place / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 5, 1, *size, f, f, cx, cy))
    data = struct.pack("<Q", len(c2w))
    for i, pose in enumerate(_colmap(c2w)):
        points = b"" if i % 2 else struct.pack("<ddqddq", 1.5, 2.5, -1, 3, 4, 7)
        data += struct.pack("<I7dI", i + 9, *pose, 5) + f"{i:05d}.jpg\0".encode()
        data += struct.pack("<Q", len(points) // 24) + points
    (place / "images.bin").write_bytes(data)
    return folder / "project"


# Writers, and whether their files have a lens.
WITH_LENS = (ours, ours_npz, nerfstudio, nerfstudio_by_frame, blender, camera_path, cam_x_time)
WITH_LENS += (cam_x_time_evaluation, realestate)
WITH_LENS += (megasam, vggt, vipe, uni3c, colmap_text, colmap_binary)
WITHOUT_LENS = (matrix_list, matrix_list_3x4, array_3x4, array_of_a_batch, lines_of_16, tum, kitti)
ALL = (*WITH_LENS, *WITHOUT_LENS)
