"""Contact sheets, videos side by side, and plots of camera paths and animation-time curves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stp_jax.controls.view import View
from stp_jax.files import new_file
from stp_jax.media.lazy import Pictures, Video

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"source": "#1f77b4", "target": "#d62728"}


def label_bar(text: str, height: int, width: int) -> np.ndarray:
    """A label in white on near black, uint8 [height, width, 3]; the text shrinks to fit."""
    image = Image.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(image)
    size = 13.0
    while size > 6 and draw.textlength(text, ImageFont.load_default(size)) > width - 8:
        size -= 0.5
    draw.text((4, height / 2), text, fill="white", font=ImageFont.load_default(size), anchor="lm")
    return np.asarray(image)


def at_most(picture: np.ndarray, width: int) -> np.ndarray:
    """uint8 [H, W, 3], made smaller if it is wider than `width`."""
    image = Image.fromarray(picture)
    image.thumbnail((width, image.height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def side_by_side(videos: Mapping[str, Video]) -> Video:
    """Joins videos uint8 `[F, H, W, 3]` of one shape from left to right, each under its label."""
    if any(isinstance(video, Pictures) for video in videos.values()):
        frames, height, width, _ = next(iter(videos.values())).shape
        whole = (frames, height + 20, len(videos) * (width + 4) - 4, 3)
        return Pictures(lambda numbers: _joined({key: one[numbers] for key, one in videos.items()}), whole)
    return _joined({label: np.asarray(video) for label, video in videos.items()})


def _joined(videos: Mapping[str, np.ndarray]) -> np.ndarray:
    columns = []
    for label, video in videos.items():
        frames, _, width, _ = video.shape
        bar = np.broadcast_to(label_bar(label, 20, width), (frames, 20, width, 3))
        column = np.concatenate([bar, video], axis=1)
        columns += [column, np.full((*column.shape[:2], 4, 3), 24, np.uint8)]
    return np.concatenate(columns[:-1], axis=2)


def contact_sheet(path: str | os.PathLike, rows: Mapping[str, Video], columns: int = 9) -> None:
    """Writes a PNG with a labelled row for each video uint8 `[F, H, W, 3]`, of one picture size.

    A row shows `columns` frames spread evenly from the first to the last, at most 256 pixels wide. Raises
    `InputError` where `path` exists or cannot be written.
    """
    lines = []
    for label, video in rows.items():
        chosen = video[np.round(np.linspace(0, len(video) - 1, columns)).astype(int)]
        chosen = np.stack([at_most(frame, 256) for frame in chosen])
        line = np.pad(chosen, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
        lines.append(np.concatenate([label_bar(label, line.shape[1], 110), *line], axis=1))
    with new_file(path) as partial:
        Image.fromarray(np.concatenate(lines)).save(partial)


def plot_cameras_and_time(
    path: str | os.PathLike,
    source: View,
    target: View,
    key_positions: np.ndarray | None = None,
    key_times: np.ndarray | None = None,
) -> None:
    """Writes a PNG: camera paths from above and from the side (metres), and each frame's animation time.

    The views are of F frames each, their cameras in one world. Circles mark the first camera, diamonds the
    target's keyframes.

    Args:
      path: of a new file.
      key_positions: [K, 3], of cameras.
      key_times: [K, 2], frame and animation time.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    from matplotlib.figure import Figure  # takes a third of a second, and training needs no plots

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    above, side, time = figure.subplots(1, 3)
    views = {"source": source, "target": target}
    positions = np.concatenate([np.asarray(view.c2w)[:, :3, 3] for view in views.values()])
    size = 0.2 * max(np.ptp(positions, axis=0).max(), 0.5)
    for label, view in views.items():
        colour = _COLOURS[label]
        draw_path(above, view, label, colour=colour, horizontal=0, vertical=2, size=size)
        draw_path(side, view, label, colour=colour, horizontal=2, vertical=1, size=size)
    marker = {"color": _COLOURS["target"], "ls": "", "marker": "D", "ms": 7, "mfc": "none"}
    if key_positions is not None:
        above.plot(key_positions[:, 0], key_positions[:, 2], **marker)
        side.plot(key_positions[:, 2], key_positions[:, 1], **marker)
    if key_times is not None:
        time.plot(key_times[:, 0], key_times[:, 1], **marker)
    above.set(title="Cameras from above", xlabel="right (m)", ylabel="forward (m)")
    side.set(title="Cameras from the side", xlabel="forward (m)", ylabel="down (m)")
    side.invert_yaxis()
    for label, view in views.items():
        frames = np.arange(len(view.animation_time))
        time.plot(frames, view.animation_time, ".-", color=_COLOURS[label], label=label)
    time.set(title="Animation time", xlabel="frame", ylabel="animation time (source frames)")
    for axes in (above, side, time):
        axes.grid(alpha=0.3)
    above.legend()
    with new_file(path) as partial:
        figure.savefig(partial, dpi=110)


def draw_path(
    axes: Axes,
    view: View,
    label: str | None,
    *,
    colour: Any,
    horizontal: int,
    vertical: int,
    size: float,
    fields: int = 5,
) -> None:
    """Draws a line through F cameras, a dot at the first, and the field of view of some, seen along an axis.

    Args:
      horizontal, vertical: the world's axes, 0 to 2, that lie across and up the plot.
      size: length of the fields of view, in the world's unit.
      fields: how many cameras' fields of view are drawn.
    """
    c2w, intrinsics = np.asarray(view.c2w), np.asarray(view.intrinsics)
    position = c2w[:, :3, 3]
    axes.plot(position[:, horizontal], position[:, vertical], "-", color=colour, label=label)
    axes.plot(position[0, horizontal], position[0, vertical], "o", color=colour)
    across = 0 if horizontal == 0 else 1  # from above one sees the picture's width, from the side its height
    for i in {int(i) for i in np.linspace(0, len(c2w) - 1, fields)}:
        corners = np.zeros((3, 3))
        corners[:2, 2] = size
        corners[:2, across] = np.array([-0.5, 0.5]) / intrinsics[i, across] * size
        world = corners @ c2w[i, :3, :3].T + position[i]
        axes.fill(world[:, horizontal], world[:, vertical], color=colour, alpha=0.2, linewidth=0.8)
    axes.set_aspect("equal", adjustable="datalim")
