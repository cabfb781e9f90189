"""The pictures of a scene: epipolar lines, cameras in space, animation times; contact sheets of scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from input_pipeline.inspect import epipolar
from input_pipeline.inspect.conventions import Matched, Place, Poses, Verdict
from input_pipeline.inspect.scenes import Known
from stp_jax.controls.view import View
from stp_jax.files import new_file
from stp_jax.media import pictures as sheets

_MARKS = 8  # points of a picture
_PAIRS = 3  # of pictures in a figure
_WIDTH = 4.6  # inches of a picture
_NEAR = 0.75  # cosine to an axis of the world that is taken for up
_THUMB = 192  # pixels across
_WORLD = ("#d62728", "#2ca02c", "#1f77b4")  # its axes x, y, z


# Epipolar lines ---------------------------------------------------------------------------------------------


def marks(matched: Matched) -> np.ndarray:
    """Numbers of some matches, far from each other in the first picture: int [K], at most 8."""
    chosen = np.flatnonzero(matched.fit)
    at = matched.first[chosen]
    kept = [int(np.hypot(*(at - at.mean(0)).T).argmax())]
    while len(kept) < min(_MARKS, len(chosen)):
        gaps = np.hypot(*(at[:, None] - at[kept][None]).transpose(2, 0, 1)).min(1)
        kept.append(int(gaps.argmax()))
    return chosen[kept]


def epipolar_lines(
    path: Path,
    scene: Known,
    pictures: dict[Place, np.ndarray],
    matched: Sequence[Matched],
    verdict: Verdict,
) -> None:
    """Writes a PNG: points of one picture, and the lines in another one on which they must be.

    Where another convention fits better, its lines are drawn beside.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    drawn = _most_different(matched)
    poses: list[tuple[str, Poses]] = [("as the poses are read", (scene.c2w, scene.intrinsics))]
    if verdict.better is not None:
        convention = verdict.better[0]
        poses.append((f"if these are {convention.name}", convention.read(poses[0][1])))
    height, width = drawn[0].size
    size = (_WIDTH * (1 + len(poses)), (_WIDTH * height / width + 0.55) * len(drawn) + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    plots = figure.subplots(len(drawn), 1 + len(poses), squeeze=False)
    for row, pair in zip(plots, drawn, strict=True):
        chosen = marks(pair)
        places = [f"camera {place.camera}, frame {place.time}" for place in pair.places]
        _show(row[0], pictures[pair.places[0]], f"{places[0]}: some points")
        _points(row[0], pair.first[chosen])
        for axes, (name, read) in zip(row[1:], poses, strict=True):
            _show(axes, pictures[pair.places[1]], f"{places[1]}: {_found(pair, read)}")
            axes.set_xlabel(_wrapped(name if len(poses) > 1 else "", 58), fontsize=9)
            _lines(axes, pair, read, chosen)
    part = " of what stands still" if scene.kind == "single" else ""
    colour = "#b00000" if verdict.wrong else "#006000" if verdict.known else "#000000"
    figure.suptitle(
        f"{scene.name[:60]} ({scene.kind}): points{part} (left) must lie on the lines of their colour "
        "(right);\ncircles: the same points, found by the pictures alone\n"
        + _wrapped(verdict.text(), 46 * (1 + len(poses))),
        fontsize=10,
        color=colour,
    )
    with new_file(path) as partial:
        figure.savefig(partial, dpi=90)


def _found(pair: Matched, poses: Poses) -> str:
    """How many matches are where these cameras allow them, as a title."""
    if np.isnan(pair.second).all():
        return "no matches found"
    share = pair.share(poses)
    off = epipolar.distances(pair.pair(poses), pair.first, pair.second, np.inf)[pair.fit]
    if (off < pair.tolerance).mean() > share + 0.2:  # lines through the right points, but turned round
        return f"{share:.0%} of {pair.fit.sum()} in front of both cameras"
    return f"{share:.0%} of {pair.fit.sum()} on their lines"


def _most_different(matched: Sequence[Matched]) -> list[Matched]:
    """At most three pairs: those with the most matches that begin at different pictures, then others."""
    order = sorted(matched, key=lambda pair: -int(pair.fit.sum()))
    first: dict[Place, Matched] = {}
    for pair in order:
        first.setdefault(pair.places[0], pair)
    chosen = list(first.values())
    chosen += [pair for pair in order if all(pair is not one for one in chosen)]
    return chosen[:_PAIRS]


def _show(axes: Axes, picture: np.ndarray, title: str) -> None:
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0))  # the upper left corner is 0, 0
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def _colours(count: int) -> np.ndarray:
    return colormaps["hsv"](np.arange(count) / count)


def _points(axes: Axes, at: np.ndarray) -> None:
    for number, (colour, (x, y)) in enumerate(zip(_colours(len(at)), at, strict=True), 1):
        axes.plot(x, y, "o", ms=9, mfc="none", mec="black", mew=3)
        axes.plot(x, y, "o", ms=9, mfc="none", mec=colour, mew=1.6)
        _number(axes, number, x, y, colour)


def _number(axes: Axes, number: int, x: float, y: float, colour: Any) -> None:
    axes.annotate(
        str(number),
        (x, y),
        (7, 7),
        textcoords="offset points",
        fontsize=8,
        color="white",
        weight="bold",
        bbox={"boxstyle": "round,pad=0.15", "fc": "black", "ec": colour, "alpha": 0.75},
        annotation_clip=True,
    )


def _lines(axes: Axes, pair: Matched, poses: Poses, chosen: np.ndarray) -> None:
    """The epipolar lines of corners; a cross where both cameras are in one place."""
    cameras = pair.pair(poses)
    matrix = epipolar.fundamental(cameras)
    first = pair.first[chosen]
    for colour, point in zip(_colours(len(chosen)), first, strict=True):
        if matrix is None:
            x, y = epipolar.transfer(cameras, point[None])[0]
            axes.plot(x, y, "x", ms=12, color=colour, mew=2)
            continue
        ends = epipolar.line_in_picture(matrix @ [*point, 1.0], pair.size)
        if ends is not None:
            axes.plot(*ends.T, "-", color="black", lw=2.4, alpha=0.6)
            axes.plot(*ends.T, "-", color=colour, lw=1.3)
    _points(axes, pair.second[chosen])


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


# Cameras and times ------------------------------------------------------------------------------------------


def level(c2w: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] from the world to a level frame: right, down, forward.

    Its down is the world axis nearest to the mean down of cameras [N, 4, 4], or that itself where
    none is near; its forward the direction of the first, made level.
    """
    down = c2w[:, :3, 1].mean(0)
    down = down / np.linalg.norm(down) if np.linalg.norm(down) > 0.1 else c2w[0, :3, 1]
    nearest = int(np.abs(down).argmax())
    if abs(down[nearest]) > _NEAR:
        down = np.sign(down[nearest]) * np.eye(3)[nearest]
    forward = c2w[0, :3, 2] - down * (c2w[0, :3, 2] @ down)
    if np.linalg.norm(forward) < 1e-3:  # it looks straight up or down
        forward = -c2w[0, :3, 1] - down * (-c2w[0, :3, 1] @ down)
    if np.linalg.norm(forward) < 1e-3:
        forward = np.cross(c2w[0, :3, 0], down)
    forward = forward / np.linalg.norm(forward)
    return np.stack([np.cross(down, forward), down, forward])


def cameras(path: Path, scene: Known) -> None:
    """Writes a PNG: cameras in space, from above and from the side, with the world's axes; animation times.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    turn = level(scene.c2w.reshape(-1, 4, 4))
    c2w = np.array(scene.c2w)
    origin = c2w[0, 0, :3, 3].copy()
    c2w[..., :3, 3] -= origin
    c2w[..., :3, :] = turn @ c2w[..., :3, :]
    views = _views(scene, c2w)
    fields = 9 if len(views) == 1 else 3
    size = 0.22 * max(float(np.ptp(c2w[..., :3, 3].reshape(-1, 3), axis=0).max()), 1e-3)
    world = -turn @ origin
    near = np.abs(world).max() < 3 * size / 0.22
    at = world if near else np.zeros(3)
    figure = Figure(figsize=(18, 5.2), layout="constrained")
    grid = figure.add_gridspec(1, 4, width_ratios=(1.5, 1, 1, 1))
    space = figure.add_subplot(grid[0], projection="3d")
    above, side, time = (figure.add_subplot(grid[place]) for place in (1, 2, 3))
    for number, (label, view) in enumerate(views):
        colour = colormaps["turbo"](0.08 + 0.84 * number / max(len(views) - 1, 1))
        _frusta(space, view, colour, size, fields=min(fields, 5))
        for axes, (across, along) in ((above, (0, 2)), (side, (2, 1))):
            sheets.draw_path(
                axes, view, label, colour=colour, horizontal=across, vertical=along, size=size, fields=fields
            )
        if number == 0 or not scene.sizes:  # all cameras of a scene have the same, clips have their own
            time.plot(view.animation_time, ".-", color=colour, label=None if scene.sizes else label)
    _world_axes(space, above, side, at, turn, 1.2 * size)
    _dress(space, above, side, time, scene)
    note = "" if near else " (drawn at the first camera: its origin is far away)"
    figure.suptitle(
        f"{scene.name[:60]} ({scene.kind}): {_who(scene)}. Frusta open towards what is filmed, their "
        f"triangles show the top of the picture.\nDot: first camera. Arrows x, y, z: the axes of the data's "
        f"world{note}",
        fontsize=10,
    )
    with new_file(path) as partial:
        figure.savefig(partial, dpi=80)


def _who(scene: Known) -> str:
    if scene.kind == "grid":
        return f"{scene.cameras} cameras that stand still"
    what = "clips" if not scene.sizes else "cameras" if scene.cameras > 1 else "camera"
    return f"{scene.cameras} {what} of {scene.frames} frames"


def _views(scene: Known, c2w: np.ndarray) -> list[tuple[str, View]]:
    """Up to 10 paths by name: of a grid one, from camera to camera."""
    if scene.kind == "grid":
        view = View(c2w[:, 0], scene.intrinsics[:, 0], scene.animation_time[0])
        return [(f"cameras 0 to {scene.cameras - 1}", view)]
    what = "camera" if scene.sizes else "clip"
    chosen = np.unique(np.linspace(0, scene.cameras - 1, min(scene.cameras, 10)).round().astype(int))
    return [
        (f"{what} {number}", View(c2w[number], scene.intrinsics[number], scene.animation_time[number]))
        for number in chosen
    ]


def _frusta(axes: Any, view: View, colour: Any, size: float, fields: int) -> None:
    """Some cameras as pyramids; right, forward and up of the level frame are the plot's x, y, z."""
    position = view.c2w[:, :3, 3]
    axes.plot(*_plotted(position), "-", color=colour, lw=1)
    axes.plot(*_plotted(position[:1]), "o", color=colour, ms=5)
    for i in {int(i) for i in np.linspace(0, len(view.c2w) - 1, fields)}:
        half = 0.5 / view.intrinsics[i, :2]
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        up = np.array([[-0.5 * half[0], -1.15 * half[1]], [0.5 * half[0], -1.15 * half[1]]])
        up = np.concatenate([up, [[0, -1.9 * half[1]]]])
        corners, up = (
            size * np.pad(points, ((0, 0), (0, 1)), constant_values=1) @ view.c2w[i, :3, :3].T + position[i]
            for points in (corners, up)
        )
        for corner in corners:
            axes.plot(*_plotted(np.stack([position[i], corner])), "-", color=colour, lw=0.8)
        axes.plot(*_plotted(corners[[0, 1, 2, 3, 0]]), "-", color=colour, lw=1.4)
        axes.plot(*_plotted(up[[0, 1, 2, 0]]), "-", color=colour, lw=1.4)


def _plotted(points: np.ndarray) -> np.ndarray:
    """Points [N, 3] of the level frame as [3, N]: right, forward, up."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]])


def _world_axes(space: Any, above: Axes, side: Axes, at: np.ndarray, turn: np.ndarray, length: float) -> None:
    for name, colour, axis in zip("xyz", _WORLD, turn.T, strict=True):
        ends = np.stack([at, at + length * axis])
        space.plot(*_plotted(ends), "-", color=colour, lw=2.5)
        space.text(*_plotted(ends[1:])[:, 0], name, color=colour, weight="bold")
        for axes, (across, along) in ((above, (0, 2)), (side, (2, 1))):
            (x, y), (end_x, end_y) = ends[:, [across, along]]
            axes.plot([x, end_x], [y, end_y], "-", color=colour, lw=2.5)
            if np.hypot(end_x - x, end_y - y) > 0.3 * length:
                axes.annotate(name, (end_x, end_y), (2, 2), textcoords="offset points", color=colour,
                              weight="bold")  # fmt: skip


def _dress(space: Any, above: Axes, side: Axes, time: Axes, scene: Known) -> None:
    unit = scene.unit
    space.set(xlabel=f"right ({unit})", ylabel=f"forward ({unit})", zlabel=f"up ({unit})", title="Cameras")
    space.set_aspect("equal")
    space.set_box_aspect(None, zoom=1.1)
    space.view_init(elev=25, azim=-60)
    space.tick_params(labelsize=7)
    space.locator_params(nbins=4)
    above.set(title="From above", xlabel=f"right ({unit})", ylabel=f"forward ({unit})")
    side.set(title="From the side", xlabel=f"forward ({unit})", ylabel=f"down ({unit})")
    side.invert_yaxis()
    time.set(title="Animation time", xlabel="frame", ylabel="animation time (source frames)")
    for axes in (above, side, time):
        axes.grid(alpha=0.3)
    if not scene.sizes:
        time.legend(fontsize=7)
    above.legend(fontsize=7)


# Contact sheets ---------------------------------------------------------------------------------------------


def contact_rows(scene: Known, rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Rows of labelled pictures of a scene under its name and caption, uint8 [H, W, 3].

    Args:
      rows: of each row the labels and pictures uint8, all of one shape.
    """
    lines = []
    for row in rows:
        tiles = []
        for label, picture in row:
            picture = sheets.at_most(picture, _THUMB)
            bar = sheets.label_bar(label, 16, picture.shape[1])
            tile = np.concatenate([bar, picture])
            tiles.append(np.pad(tile, ((0, 2), (0, 2), (0, 0)), constant_values=255))
        lines.append(np.concatenate(tiles, axis=1))
    body = np.concatenate(lines)
    title = f"{scene.name[:80]}: {scene.kind}, {_who(scene)}"
    if scene.fps == scene.fps:
        title += f", {scene.fps:.4g} frames in a second"
    heads = [sheets.label_bar(title, 24, body.shape[1])]
    heads += [sheets.label_bar(f'"{caption[:200]}"', 20, body.shape[1]) for caption in scene.captions[:2]]
    return np.concatenate([*heads, body])


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below each other, on white."""
    width = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, ((0, 10), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in parts
    ]
    return np.concatenate(padded)


def false_colours(latents: np.ndarray) -> np.ndarray:
    """Latents [..., h, w, C] as pictures uint8 [..., h, w, 3]: their three principal components."""
    flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    axes = np.linalg.svd(flat.T @ flat)[0][:, :3]
    parts = flat @ axes
    parts = np.pad(parts, ((0, 0), (0, 3 - parts.shape[1])))
    low, high = np.percentile(parts, [1, 99], axis=0)
    scaled = np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1)
    return (255 * scaled).round().astype(np.uint8).reshape(*latents.shape[:-1], 3)
