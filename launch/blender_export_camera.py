"""Exports the active camera of a Blender scene, over its frame range, for sample.py.

    blender scene.blend --background --python launch/blender_export_camera.py -- cameras.json
    python launch/blender_export_camera.py scene.blend cameras.json        # with `pip install bpy`

It may also be run in Blender's text editor: then the file lies beside the .blend. There is one pose for every
frame from start to end (by the scene's step), with parents, constraints and markers that switch cameras as
rendered. Poses are camera-to-world in OpenCV axes (x right, y down, z forward) and metres, by the scene's
unit scale. The lens, with sensor fit, shift and the shape of pixels, is divided by width and height:

    python sample.py --video clip.mp4 --camera cameras.json
    python sample.py --video render.mp4 --source_cameras cameras.json      # how the clip itself was rendered

It needs Blender 2.80 or newer, and nothing but Blender's own Python.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def lens_of(projection: Any) -> list[float]:
    """(fx, fy, cx, cy) divided by width and height, of Blender's 4 x 4 projection to -1 .. 1, y up."""
    return [
        projection[0][0] / 2,
        projection[1][1] / 2,
        (1 - projection[0][2]) / 2,
        (1 + projection[1][2]) / 2,
    ]


def pose_of(matrix_world: Any, metres: float) -> list[list[float]]:
    """Camera-to-world in OpenCV axes and metres, of Blender's (y up, z back) without scale."""
    rows = []
    for row in list(matrix_world)[:3]:
        x, y, z, place = row
        rows.append([x, -y, -z, place * metres])
    return [*rows, [0.0, 0.0, 0.0, 1.0]]


def picture_size(scene: Any) -> tuple[int, int]:
    """Width and height in pixels, as rendered."""
    render = scene.render
    part = render.resolution_percentage / 100
    return int(render.resolution_x * part), int(render.resolution_y * part)


def cameras_of(scene: Any) -> dict[str, Any]:
    """What the file holds. Leaves the scene at the frame it was at."""
    import bpy

    width, height = picture_size(scene)
    units = scene.unit_settings
    metres = 1.0 if units.system == "NONE" else units.scale_length
    before, poses, lenses = scene.frame_current, [], []
    try:
        for frame in range(scene.frame_start, scene.frame_end + 1, scene.frame_step):
            scene.frame_set(frame)
            if scene.camera is None:
                raise SystemExit("The scene has no active camera: choose one (Ctrl + numpad 0).")
            if scene.camera.data.type != "PERSP":
                raise SystemExit(f"Frame {frame}: camera {scene.camera.name} is not a perspective one.")
            graph = bpy.context.evaluated_depsgraph_get()
            camera = scene.camera.evaluated_get(graph)
            projection = camera.calc_matrix_camera(
                graph,
                x=width,
                y=height,
                scale_x=scene.render.pixel_aspect_x,
                scale_y=scene.render.pixel_aspect_y,
            )
            poses.append(pose_of(camera.matrix_world.normalized(), metres))
            lenses.append(lens_of(projection))
    finally:
        scene.frame_set(before)
    return {"c2w": poses, "intrinsics": lenses, "width": width, "height": height}


def arguments(words: list[str], in_blender: bool) -> tuple[str | None, str | None]:
    """The .blend to open and the .json to write, as far as they are given.

    Args:
      words: `sys.argv`. Within Blender those before "--" are Blender's own.
      in_blender: whether Blender runs the script, not Python with the package bpy.

    Exits with one line for what it does not know.
    """
    given = words[1:]
    if "--" in words:
        given = words[words.index("--") + 1 :]
    elif in_blender:
        given = []
    if set(given) & {"-h", "--help"}:
        raise SystemExit(__doc__)
    scene = given.pop(0) if given and given[0].endswith(".blend") else None
    path = given.pop(0) if given and given[0].endswith(".json") else None
    if given:
        raise SystemExit(
            f"Unknown argument {given[0]!r}: this script takes [scene.blend] cameras.json alone."
        )
    return scene, path


def main() -> None:
    import bpy

    scene, path = arguments(sys.argv, bool(bpy.app.binary_path))
    if scene:
        if not os.path.isfile(scene):
            raise SystemExit(f"{scene}: no such file.")
        bpy.ops.wm.open_mainfile(filepath=scene)
    if path is None:
        if not bpy.data.filepath:
            raise SystemExit("Where to? Save the .blend first, or give a name: ... -- cameras.json")
        path = os.path.splitext(bpy.data.filepath)[0] + "_cameras.json"
    if os.path.exists(path):
        raise SystemExit(f"{path} exists already and is not overwritten: choose another name.")
    made = cameras_of(bpy.context.scene)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(made, file)
    print(f"{path}: {len(made['c2w'])} poses for pictures of {made['width']} x {made['height']}")


if __name__ == "__main__":
    main()
