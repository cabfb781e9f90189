"""Draws and measures a built data set or a latent cache, so that wrong cameras are seen before a training.

    python -m input_pipeline.inspect data/built --kind multicam_video

writes into a new folder, for some scenes spread over the data set:

    scene_000012_epipolar.png   corners of one picture, and the lines on which another camera must see them
    scene_000012_cameras.png    cameras in space with the world's axes, and animation times
    contact_sheet.png           pictures of these scenes with names and captions

and, of all scenes:

    scenes.csv                  a line for each: sizes, rates, speeds, fields of view, and what is unusual
    figures.json                the same together, and how well poses fit the pictures of the scenes shown

Poses that would fit clearly better in another convention (OpenGL axes, world-to-camera, another order,
another principal point) are warned of by name. Only the videos of the scenes shown are decoded; yet records
hold their videos, so that all bytes of a data set are read: --figures_of limits that.
Of a latent cache there are no pictures to check poses with: inspect the data set that it was made from.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from input_pipeline.inspect import choice, conventions, drawing, features, figures, scenes
from input_pipeline.inspect.conventions import Matched, Place, Verdict
from input_pipeline.inspect.scenes import Known, Source
from input_pipeline.latents import LatentCache
from input_pipeline.remote import is_remote, local_path
from stp_jax.command_line import Parser, count
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.files import new_file, size_text

_LISTED = 10  # scenes of which what is unusual is printed


class Shown(NamedTuple):
    """A scene that was drawn.

    Attributes:
      verdict: None of a latent cache.
      sheet: its part of the contact sheet.
    """

    scene: Known
    verdict: Verdict | None
    sheet: np.ndarray


def new_folder(out: Path | None, data: str, split: str) -> Path:
    """Makes the folder for the pictures. Raises `InputError` where there is something in it."""
    name = Path(data.rstrip("/")).name if is_remote(data) else local_path(data).resolve().name
    folder = out or Path("outputs", f"inspect_{name}_{split}")
    number = 1
    while out is None and folder.exists():
        number += 1
        folder = folder.with_name(f"inspect_{name}_{split}_{number}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written to ({error.strerror})") from None
    if not empty:
        raise InputError(f"--out {folder}: is not empty; choose another folder")
    return folder


# One scene --------------------------------------------------------------------------------------------------


def show(source: Source, number: int, folder: Path) -> Shown:
    """Draws a scene into `folder`. Raises `InputError` where it is damaged."""
    name = f"scene_{number:06d}"
    if isinstance(source, LatentCache):
        scene = scenes.known(source, number)
        drawing.cameras(folder / f"{name}_cameras.png", scene)
        return Shown(scene, None, _sheet_of_latents(source, scene))
    record = source[number]
    scene = scenes.of_record(record, number)
    rows = choice.shown(scene.cameras, scene.frames)
    candidates = choice.compared(scene.kind, scene.cameras, scene.frames)
    wanted: dict[int, set[int]] = {}
    for place in [place for places in [*rows, *candidates] for place in places]:
        wanted.setdefault(place.camera, set()).add(place.time)
    pictures = {
        Place(camera, time): conventions.smaller(picture)
        for camera, time, picture in scenes.pictures(
            record, {camera: sorted(wanted[camera]) for camera in sorted(wanted)}
        )
    }
    moving = scene.kind == "single"
    matched = conventions.match(pictures, candidates, moving=moving)
    verdict = conventions.judge(matched, (scene.c2w, scene.intrinsics), moving=moving)
    drawn = matched or _unmatched(pictures, candidates)
    if drawn:
        drawing.epipolar_lines(folder / f"{name}_epipolar.png", scene, pictures, drawn, verdict)
    drawing.cameras(folder / f"{name}_cameras.png", scene)
    labelled = [
        [(f"camera {place.camera}, frame {place.time}", pictures[place]) for place in places]
        for places in rows
    ]
    return Shown(scene, verdict, drawing.contact_rows(scene, labelled))


def _unmatched(pictures: dict[Place, np.ndarray], candidates: list[tuple[Place, Place]]) -> list[Matched]:
    """A pair of pictures without matches: its strongest corners, or where there are few, points of a grid."""
    for pair in candidates[:1]:
        height, width = pictures[pair[0]].shape[:2]
        found = features.find(pictures[pair[0]])
        at = found.at[np.argsort(-found.strength)[:60]]
        if len(at) < 8:
            across, down = np.meshgrid([0.2, 0.5, 0.8], [0.2, 0.5, 0.8])
            at = np.stack([across.ravel() * width, down.ravel() * height], 1)
        return [Matched(pair, at, np.full_like(at, np.nan), np.ones(len(at), bool), (height, width))]
    return []


def _sheet_of_latents(cache: LatentCache, scene: Known) -> np.ndarray:
    """Some clips of a latent cache in false colours, each latent one 8 x 8 square."""
    chosen = np.unique(np.linspace(0, cache.clips - 1, min(4, cache.clips)).round().astype(int))
    latents = cache.clips_at(scene.number * cache.clips + chosen)["latents"]
    colours = drawing.false_colours(latents).repeat(8, axis=2).repeat(8, axis=3)
    rows = []
    for clip, pictures in zip(chosen, colours, strict=True):
        kept = np.unique(np.linspace(0, len(pictures) - 1, min(7, len(pictures))).round().astype(int))
        rows.append([(f"clip {clip}, latent frame {frame}", pictures[frame]) for frame in kept])
    return drawing.contact_rows(scene, rows)


# All scenes -------------------------------------------------------------------------------------------------


def measure(source: Source, most: int | None) -> tuple[list[figures.Row], dict[int, str]]:
    """The figures of all scenes, or of `most` spread evenly, with what is `unusual` in each.

    Returns:
      A row for each scene, and why others cannot be read, by number.
    """
    numbers = _spread(scenes.count(source), most)
    rows, own, damaged = [], [], {}
    for number in tqdm(numbers, desc="figures", unit="scene"):
        try:
            scene = scenes.known(source, number)
        except InputError as error:
            damaged[number] = str(error)
            continue
        rows.append(figures.of_scene(scene))
        own.append(figures.of_its_own(scene, rows[-1]))
    for row, alone, beside in zip(rows, own, figures.among_all(rows), strict=True):
        row["unusual"] = "; ".join([*alone, *beside])
    return rows, damaged


def _spread(total: int, most: int | None) -> list[int]:
    return [int(i) for i in np.unique(np.linspace(0, total - 1, min(total, most or total)).round())]


def write(folder: Path, name: str, rows: list[figures.Row], damaged: dict[int, str], shown: list[Shown]):
    """Writes scenes.csv, figures.json and contact_sheet.png."""
    if rows:
        with new_file(folder / "scenes.csv") as partial, open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    verdicts = [
        {
            "number": one.scene.number,
            "scene": one.scene.name,
            "matches": one.verdict.matches,
            "pairs": one.verdict.pairs,
            "on_their_lines": one.verdict.share,
            "median_pixels_off": one.verdict.residual,
            "fits_better": None if one.verdict.better is None else one.verdict.better[0].name,
            "on_their_lines_then": None if one.verdict.better is None else one.verdict.better[1],
            "warning": one.verdict.wrong,
        }
        for one in shown
        if one.verdict is not None
    ]
    data = {"data": name, **figures.summary(rows), "poses": verdicts, "cannot_be_read": damaged}
    with new_file(folder / "figures.json") as partial:
        partial.write_text(json.dumps(_without_nan(data), indent=1) + "\n")
    if shown:
        with new_file(folder / "contact_sheet.png") as partial:
            Image.fromarray(drawing.joined([one.sheet for one in shown])).save(partial)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_summary(rows: list[figures.Row], damaged: dict[int, str]) -> None:
    made = figures.summary(rows)
    kinds = ", ".join(f"{number} {kind}" for kind, number in made["kinds"].items())
    print(f"{made['scenes']} scenes ({kinds}), {made['videos']} videos or clips, {size_text(made['bytes'])}")
    print(f"  pictures: {_counts(made['sizes'])}; frames in a second: {_counts(made['rates'])}")
    print(f"  captions: of {made['scenes_with_captions']} scenes; unit of poses: {_counts(made['units'])}")
    print("  least, median and most of:")
    for column, values in made["least_median_most"].items():
        if column != "bytes":
            print(f"    {column:20}" + "".join(f"{value:>12.4g}" for value in values))
    unusual = [row for row in rows if row["unusual"]]
    if unusual:
        print(f"{len(unusual)} scenes stand out:")
    for row in unusual[:_LISTED]:
        print(f"  {row['scene']}: {row['unusual']}")
    if len(unusual) > _LISTED:
        print(f"  and {len(unusual) - _LISTED} others, see scenes.csv")
    if damaged:
        print(f"WARNING: {len(damaged)} scenes cannot be read:")
        for reason in list(damaged.values())[:_LISTED]:
            print(f"  {reason}")


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{value or 'none'} ({number})" for value, number in values.items())


def print_verdicts(shown: list[Shown]) -> None:
    judged = [one for one in shown if one.verdict is not None]
    for one in judged:
        assert one.verdict is not None
        print(f"  {one.scene.name}: {one.verdict.text()}")
    wrong = [one for one in judged if one.verdict is not None and one.verdict.wrong]
    if wrong:
        print(
            f"WARNING: the cameras of {len(wrong)} of {len(judged)} scenes do not fit their pictures: look "
            "at the files *_epipolar.png, and build the data set again with the right convention."
        )


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("data", help="folder of a built data set or a latent cache; may be gs:// or s3://")
    parser.add_argument("--kind", help="name of the data set, where several are there or it is remote")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--scenes", type=count, default=4, help="how many are drawn (default: %(default)s)")
    parser.add_argument("--figures_of", type=count, help="of how many scenes there are figures (all)")
    parser.add_argument("--out", type=Path, help="a new or empty folder (outputs/inspect_<data>_<split>)")
    args = parser.parse_args(argv)
    name, source = scenes.open_data(args.data, args.kind, args.split)
    folder = new_folder(args.out, args.data, args.split)
    print(name)
    rows, damaged = measure(source, args.figures_of)
    print_summary(rows, damaged)
    shown = []
    for number in tqdm(_spread(scenes.count(source), args.scenes), desc="drawing", unit="scene"):
        try:
            shown.append(show(source, number, folder))
        except InputError as error:
            damaged[number] = str(error)
            tqdm.write(f"WARNING: {error}")
    print_verdicts(shown)
    if isinstance(source, LatentCache):
        print(
            "  Poses were not checked: a latent cache has no pictures. Inspect the data set it is made from."
        )
    write(folder, name, rows, damaged, shown)
    print(f"Pictures and figures: {folder}")
