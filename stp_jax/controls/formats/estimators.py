"""Cameras that other programs estimated or planned: MegaSaM, VGGT, ViPE (.npz), Uni3C (.json)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stp_jax import user_input
from stp_jax.controls import lenses
from stp_jax.controls.formats.base import (
    Arrays,
    CameraFile,
    Content,
    Format,
    Numbers,
    Reading,
    depth_in_the_middle,
    picture_of,
    stated,
)
from stp_jax.errors import InputError


def _has(content: Content, *names: str) -> bool:
    return isinstance(content.data, Arrays) and all(name in content.data.of for name in names)


def _one_batch(array: np.ndarray, axes: int) -> np.ndarray:
    """Without an axis of one video in front."""
    return array[0] if array.ndim == axes + 1 and array.shape[0] == 1 else array


def _is_megasam(content: Content) -> bool:
    return _has(content, "cam_c2w")


def _read_megasam(content: Content, reading: Reading) -> CameraFile:
    """`cam_c2w` [F, 4, 4] and `intrinsic` [3, 3] in pixels of its `images` [F, H, W, 3] (test_demo.py).

    `depths` are [F, H, W].
    """
    arrays = content.data
    form = "MegaSaM's .npz: camera-to-world, OpenCV axes, scale as estimated"
    size = picture_of(arrays.shapes.get("images", ()))
    depth = depth_in_the_middle(arrays.firsts.get("depths"))
    file = CameraFile(
        content.where, arrays.of["cam_c2w"], form, arrays.of.get("intrinsic"), size, depth=depth
    )
    return stated(file, reading)


def _is_vggt(content: Content) -> bool:
    return _has(content, "extrinsic")


def _read_vggt(content: Content, reading: Reading) -> CameraFile:
    """`extrinsic` [F, 3, 4] and `intrinsic` [F, 3, 3] in pixels of `images` [F, 3, H, W] (demo_gradio.py).

    `depth` is [F, H, W, 1].
    """
    arrays = content.data
    lens = arrays.of.get("intrinsic")
    form = "VGGT's .npz: world-to-camera, OpenCV axes, scale as estimated"
    file = CameraFile(
        content.where,
        _one_batch(arrays.of["extrinsic"], 3),
        form,
        None if lens is None else _one_batch(lens, 3),
        picture_of(arrays.shapes.get("images", ())),
        np.linalg.inv,
        depth=depth_in_the_middle(arrays.firsts.get("depth")),
    )
    return stated(file, reading)


def _is_vipe(content: Content) -> bool:
    return _has(content, "data", "inds")


def _read_vipe(content: Content, reading: Reading) -> CameraFile:
    """pose/NAME.npz: `data` [n, 4, 4], and `inds`, their frames; the lens is in intrinsics/NAME.npz."""
    where = content.where
    poses, at = content.data.of["data"], _frames_of(content.data.of["inds"], where)
    if poses.ndim == 2 and poses.shape[1] == 4:
        raise InputError(f"{where}: is ViPE's file of intrinsics: give the one of the same name in pose/")
    if len(poses) != len(at):
        raise InputError(f"{where}: {len(poses)} poses, but {len(at)} frame numbers (inds)")
    form = "ViPE's .npz: camera-to-world, OpenCV axes, scale as estimated"
    path = Path(where).absolute()
    beside = path.parent.parent / "intrinsics" / path.name
    lens = None
    if beside.is_file():
        arrays = user_input.load(beside, (".npz",), names=("data", "inds"))
        if not {"data", "inds"} <= arrays.keys():
            raise InputError(f'{beside}: has no "data" and "inds", as ViPE\'s intrinsics have')
        if not np.array_equal(_frames_of(arrays["inds"], str(beside)), at):
            raise InputError(f"{beside}: its frames (inds) are not those of {where}")
        lens = arrays["data"]
        form += f", lens in {beside.parent.name}/{beside.name}"
    numbers = Numbers(at, frames=True, first=0)
    return stated(CameraFile(where, poses, form, lens, numbers=numbers), reading)


def _frames_of(inds: np.ndarray, where: str) -> np.ndarray:
    at = inds.astype(np.float64)
    if at.ndim != 1 or not len(at) or not (np.diff(at) > 0).all() or not 0 <= at[0] <= at[-1] < 1e6:
        raise InputError(f"{where}: its frame numbers (inds) must increase from 0 or more")
    return at


def _is_uni3c(content: Content) -> bool:
    return isinstance(content.data, dict) and isinstance(content.data.get("extrinsic"), list)


def _read_uni3c(content: Content, reading: Reading) -> CameraFile:
    """cam_info.json: "extrinsic" [F, 4, 4], "intrinsic" [3, 3] in pixels of "width" x "height"."""
    where, data = content.where, content.data
    form = "Uni3C's cam_info.json: world-to-camera, OpenCV axes"
    size = lenses.stated_size(data, where)
    file = CameraFile(where, data["extrinsic"], form, data.get("intrinsic"), size, np.linalg.inv)
    return stated(file, reading)


MEGASAM = Format(
    "MegaSaM .npz", "cam_c2w and intrinsic: camera-to-world, OpenCV axes", _is_megasam, _read_megasam
)
VGGT = Format("VGGT .npz", "extrinsic and intrinsic: world-to-camera, OpenCV axes", _is_vggt, _read_vggt)
VIPE = Format(
    "ViPE pose/NAME.npz",
    "data and inds, with intrinsics/NAME.npz beside: camera-to-world, OpenCV axes",
    _is_vipe,
    _read_vipe,
)
UNI3C = Format(
    "cam_info.json", "Uni3C's extrinsic and intrinsic: world-to-camera, OpenCV axes", _is_uni3c, _read_uni3c
)
