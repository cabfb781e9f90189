"""What a record must be before it is written: whole, readable, and true to its form (docs/data.md)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from input_pipeline.config import DEPTH_STRIDE
from input_pipeline.datasets import form
from input_pipeline.datasets.probing import Probe, probe
from input_pipeline.shots import KINDS, check_animation_time, check_cameras
from stp_jax.errors import InputError

MOST_BYTES = 2**31 - 2**20  # of a record: a protocol buffer has 2 GiB at most
TURN = 90.0  # degrees from one frame to the next: no camera turns so fast
SMALL_TURN = 10.0  # degrees: a turn is no jump below this
PACE = 10.0  # times what a camera moves or turns around that frame: a jump
PART = 0.05  # of the extent of its path: a move is no jump below this
AROUND = 4  # frames before and after


class Checks(NamedTuple):
    """What is looked at.

    Attributes:
      decode: all frames of all videos.
      keep_jumps: cameras may jump.
    """

    decode: bool = False
    keep_jumps: bool = False


def checked(record: dict[str, Any], scene: str, checks: Checks) -> dict[str, Any]:
    """The record as it is written.

    Args:
      record: of a builder, see `form`; it may lack the scene's name, and depth.
      scene: its name where it lacks it.

    Raises:
      InputError: something about it is broken.
    """
    record = {"scene": scene, "depth": form.NO_DEPTH} | record
    name = record["scene"]
    if set(record) != form.FIELDS:  # a mistake of a builder, not of its input
        raise TypeError(
            f"record of {name}: fields {sorted(set(record) ^ form.FIELDS)} are missing or not known"
        )
    if record["kind"] not in KINDS:
        raise TypeError(f"record of {name}: no such kind {record['kind']!r}")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InputError(f"{name!r}: is no name of a scene")
    if not 0 < record["fps"] < 1e6:
        raise InputError(f"{name}: {record['fps']} frames in a second")
    if empty := [place for place, text in enumerate(record["captions"]) if not text.strip()]:
        raise InputError(f"{name}: caption {empty[0]} is empty")
    found = _check_videos(record, name, checks)
    frames = found.frames
    check_depth(record["depth"], (len(record["videos"]), frames, *found.size), name)
    c2w, intrinsics = (np.asarray(record[key], np.float32) for key in ("c2w", "intrinsics"))
    check_cameras(c2w, intrinsics, record["kind"], len(record["videos"]), frames, name)
    if not checks.keep_jumps:
        for camera, poses in enumerate(c2w):
            check_jumps(poses, f"{name}, camera {camera}")
    times = check_animation_time(record["animation_time"], frames, name)
    return record | {"c2w": c2w, "intrinsics": intrinsics, "animation_time": times}


def check_depth(depth: np.ndarray, videos: tuple[int, int, int, int], where: str) -> None:
    """Raises `InputError` where depth is neither missing nor that of videos of this shape, (C, T, H, W)."""
    cells = (*videos[:2], *(side // DEPTH_STRIDE for side in videos[2:]))
    if not depth.size:
        return
    if depth.shape != cells or any(side % DEPTH_STRIDE for side in videos[2:]):
        raise InputError(
            f"{where}: depth of shape {list(depth.shape)}, but videos of {list(videos)}; it has a value for "
            f"each {DEPTH_STRIDE} x {DEPTH_STRIDE} pixels"
        )
    if depth.dtype != np.float16 or not (np.isfinite(depth) & (depth >= 0)).all():
        raise InputError(f"{where}: its depth has numbers that are no inverse depth in float16")


def _check_videos(record: dict[str, Any], name: str, checks: Checks) -> Probe:
    """What the videos of a record have in common."""
    videos = record["videos"]
    if not videos:
        raise InputError(f"{name}: has no videos")
    if (size := sum(map(len, videos))) > MOST_BYTES:
        raise InputError(f"{name}: {size:,} bytes; the videos of a scene may have {MOST_BYTES:,}")
    even = record["kind"] != "static"  # where nothing moves, each frame has its pose, whenever it was taken
    probes = [
        probe(data, f"{name}, video {camera}", even=even, decode=checks.decode)
        for camera, data in enumerate(videos)
    ]
    for camera, one in enumerate(probes):
        if one != probes[0]:
            these, those = (f"{p.frames} frames of {p.size[1]} x {p.size[0]}" for p in (one, probes[0]))
            raise InputError(f"{name}, video {camera}: {these}, but video 0 has {those}")
    return probes[0]


def check_jumps(c2w: np.ndarray, where: str) -> None:
    """Raises `InputError` where a camera's poses [T, 4, 4] jump from one frame to the next.

    They jump where the camera turns by more than TURN degrees. They also jump where it moves by more than
    PACE times the median of its moves in the AROUND frames before and after, and by more than PART of the
    extent of its path; or where it turns by more than PACE times the median of its turns there, and by more
    than SMALL_TURN degrees. Paths of fewer than AROUND + 2 frames have no such median.
    """
    if len(c2w) < 2:
        return
    c2w = c2w.astype(np.float64)
    moves = np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=-1)
    traces = np.einsum("tij,tij->t", c2w[1:, :3, :3], c2w[:-1, :3, :3])
    turns = np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)))
    extent = np.linalg.norm(c2w[:, :3, 3] - c2w[0, :3, 3], axis=-1).max()
    jumps = turns > TURN
    if len(c2w) >= AROUND + 2:
        jumps |= (moves > PACE * _around(moves)) & (moves > PART * extent)
        jumps |= (turns > PACE * _around(turns)) & (turns > SMALL_TURN)
    if jumps.any():
        at = int(np.argmax(jumps))
        raise InputError(
            f"{where}: its poses jump from frame {at} to {at + 1} (by {moves[at]:.3g}, and {turns[at]:.3g} "
            "degrees); --keep_jumps takes such scenes, too"
        )


def _around(steps: np.ndarray) -> np.ndarray:
    """The median of the steps before and after each one, without itself."""
    padded = np.pad(steps, AROUND, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1)
    return np.nanmedian(np.delete(windows, AROUND, axis=1), axis=1)
