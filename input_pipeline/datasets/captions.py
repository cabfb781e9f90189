"""Captions of scenes, from a file for all of them, or from texts beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stp_jax.errors import InputError
from stp_jax.files import file_size, read_json

_MOST = 1 << 28  # bytes of a file of all captions
_MOST_OF_A_SCENE = 1 << 20
_SCENE_COLUMNS, _TEXT_COLUMNS = ("scene", "file_name", "name"), ("caption", "text", "prompt")


def read(path: Path | None) -> dict[str, list[str]]:
    """The captions of scenes by name, from a JSON or a CSV.

    JSON: {"scene": "a caption", ...} or {"scene": ["one", "another"], ...}. CSV: a line of titles, a column
    `scene` (or `file_name`, `name`) and a column `caption` (or `text`, `prompt`); several lines of a scene
    are several captions. Empty captions are left out. None: no captions.

    Raises:
      InputError: the file cannot be read or has another form.
    """
    if path is None:
        return {}
    pairs = _of_csv(path) if path.suffix.lower() == ".csv" else _of_json(path)
    found: dict[str, list[str]] = {}
    for scene, text in pairs:
        if text.strip():
            found.setdefault(scene, []).append(" ".join(text.split()))
    return found


def _of_json(path: Path) -> Iterator[tuple[str, str]]:
    for scene, value in read_json(path, dict, most=_MOST).items():
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}: {scene[:80]!r}: expected a caption or a list of captions")
        yield from ((scene, text) for text in texts)


def _of_csv(path: Path) -> Iterator[tuple[str, str]]:
    try:
        if file_size(path) > _MOST:
            raise InputError(f"{path}: a file of captions may have {_MOST:,} bytes")
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    columns = rows[0].keys() if rows else ()
    scene = next((name for name in _SCENE_COLUMNS if name in columns), None)
    text = next((name for name in _TEXT_COLUMNS if name in columns), None)
    if scene is None or text is None:
        raise InputError(f"{path}: expected a line of titles with the columns scene and caption")
    yield from ((row[scene] or "", row[text] or "") for row in rows)


def of_scene(
    scene: str,
    listed: Mapping[str, Sequence[str]],
    beside: Sequence[Path] = (),
    other_names: Sequence[str] = (),
) -> list[str]:
    """The captions of a scene: of the list, else of the first text file that there is, one in each line.

    Args:
      other_names: names that a scene may have in the list, too.

    Raises:
      InputError: a text file cannot be read.
    """
    for name in (scene, *other_names):
        if listed.get(name):
            return list(listed[name])
    for path in beside:
        if path.is_file():
            try:
                if file_size(path) > _MOST_OF_A_SCENE:
                    raise InputError(
                        f"{path}: a file of captions of a scene may have {_MOST_OF_A_SCENE:,} bytes"
                    )
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError):
                raise InputError(f"{path}: is not a text in UTF-8") from None
            return [" ".join(line.split()) for line in lines if line.strip()]
    return []
