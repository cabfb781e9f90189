"""Opens a built data set: dataset_info.json, features.json and the ArrayRecord files beside them.

The three are read without tensorflow-datasets' builders: these import whatever class a features.json names,
and trust the numbers of records in a dataset_info.json. ArrayRecord has checksums of its own for every chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf import json_format

from stp_jax.errors import InputError
from stp_jax.files import read_json

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

CAMERA_SHAPES: dict[str, tuple[int | None, ...]] = {"cam_x_time": (None,), "multi_view": (None, None)}
INFO, FEATURES = "dataset_info.json", "features.json"
# What tensorflow-datasets calls files that are written together, and one after the other.
_TOGETHER, _IN_TURN = (
    f"{{DATASET}}-{{SPLIT}}.{{FILEFORMAT}}-{{{end}}}" for end in ("SHARD_X_OF_Y", "SHARD_INDEX")
)
_BUILDERS = "python -m input_pipeline.datasets."
_MOST = 2**24  # bytes of either JSON file


def features(camera_shape: tuple[int | None, ...]) -> tfds.features.FeaturesDict:
    """The fields of a record, see `records.SceneBuilder`; the cameras of a scene have this shape."""
    import tensorflow_datasets as tfds  # takes half a second, and not all batches are of such records

    # encoding="bytes" is the fastest, and several unknown dimensions need it.
    return tfds.features.FeaturesDict(
        {
            "scene": tfds.features.Text(),
            "fps": np.float32,
            "videos": tfds.features.Sequence(tfds.features.Scalar(dtype=np.object_)),
            "c2w": tfds.features.Tensor(shape=(*camera_shape, 4, 4), dtype=np.float32, encoding="bytes"),
            "intrinsics": tfds.features.Tensor(shape=(*camera_shape, 4), dtype=np.float32, encoding="bytes"),
            "animation_time": tfds.features.Tensor(shape=(None,), dtype=np.float32),
        }
    )


class Records(Sequence):
    """The decoded records of ArrayRecord files, in order.

    Args:
      files: of which each has as many records as `lengths` says.
      kind: of the data set.

    Raises:
      InputError: a file is missing, damaged or has another number of records; on access, for a record that is
        damaged.
    """

    def __init__(self, files: Sequence[Path], lengths: Sequence[int], kind: str):
        self._files, self._lengths, self._kind = list(files), list(lengths), kind
        self._open()
        for file, length in zip(self._files, self._lengths, strict=True):
            found = _guarded(file, lambda file=file: len(ArrayRecordDataSource(str(file))))
            if found != length:
                raise InputError(f"{file}: has {found} records, and {INFO} beside it says {length}")

    def _open(self) -> None:
        missing = [file for file in self._files if not file.is_file()]
        if missing:
            raise InputError(f"{missing[0]}: no such file; build the data set again")
        self._features = features(CAMERA_SHAPES[self._kind])
        self._source = _guarded(
            self._files[0], lambda: ArrayRecordDataSource([str(file) for file in self._files])
        )

    def __getstate__(self):
        return {"_files": self._files, "_lengths": self._lengths, "_kind": self._kind}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return sum(self._lengths)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        ends = np.cumsum(self._lengths)
        file = int(np.searchsorted(ends, index, side="right"))
        place = index - (int(ends[file - 1]) if file else 0)
        return _guarded(
            f"{self._files[file]}: record {place}",
            lambda: self._features.deserialize_example_np(self._source[index]),
        )


def _guarded(where: str | Path, work):
    """The result of `work`; what the libraries below raise is an `InputError` that begins with `where`."""
    try:
        return work()
    except InputError:
        raise
    except Exception as error:  # C++ of ArrayRecord, protocol buffers and numpy, on bytes that are damaged
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise InputError(f"{where}: damaged ({reason}); build the data set again") from None


def open_records(path: str | Path, kind: str, split: str) -> Records:
    """Opens a split of a built data set for random access.

    `path` is the folder given as --out when it was built, or the data set's own folder.

    Raises:
      InputError: no data set of this kind is there, it is damaged, or the split is missing or empty.
    """
    folder = _find(Path(path), kind)
    name, splits = _read_info(folder / INFO)
    if name != kind:
        raise InputError(f"data set {folder}: of kind {name[:100]!r}, but data.kind = {kind!r}")
    if split not in splits or not sum(splits[split].lengths):
        available = ", ".join(splits)[:500] or "none"
        raise InputError(f"data set {folder}: no split {split!r} with scenes in it; there is: {available}")
    wanted = json_format.MessageToDict(features(CAMERA_SHAPES[kind]).to_proto())
    if read_json(folder / FEATURES, dict, most=_MOST) != wanted:
        raise InputError(
            f"{folder / FEATURES}: not the fields of a data set of kind {kind!r}; build the data set again"
        )
    lengths = splits[split].lengths
    end = f"-of-{len(lengths):05d}" if splits[split].template == _TOGETHER else ""
    files = [folder / f"{kind}-{split}.array_record-{number:05d}{end}" for number in range(len(lengths))]
    used = [place for place, length in enumerate(lengths) if length]  # empty files are not written
    return Records([files[place] for place in used], [lengths[place] for place in used], kind)


def _find(path: Path, kind: str) -> Path:
    """The folder of the newest data set of this kind. Raises `InputError` where there is none."""
    if not path.is_dir():
        raise InputError(f"data set {path}: no such folder")
    folders = [f for f in (path, *sorted((path / kind).glob("*"), reverse=True)) if (f / INFO).exists()]
    if folders:
        return folders[0]
    others = sorted(f.parent.parent.name for f in path.glob(f"*/*/{INFO}"))
    found = f"it holds {', '.join(others)}" if others else f"build it with {_BUILDERS}{kind}"
    raise InputError(f"data set {path}: no data set of kind {kind!r} there; {found}")


class _Split(NamedTuple):
    lengths: list[int]  # numbers of records of its files
    template: str  # of their names


def _read_info(path: Path) -> tuple[str, dict[str, _Split]]:
    """The data set's name, and its splits by name."""
    info = read_json(path, dict, most=_MOST)
    name, listed = info.get("name"), info.get("splits", [])
    if info.get("fileFormat") != "array_record" or not isinstance(name, str) or not isinstance(listed, list):
        raise InputError(f"{path}: describes no data set of ArrayRecord files")
    splits: dict[str, _Split] = {}
    for one in listed:
        lengths = one.get("shardLengths", []) if isinstance(one, dict) else None
        if (
            not isinstance(lengths, list)
            or not isinstance(one.get("name"), str)
            or one.get("filepathTemplate", _TOGETHER) not in (_TOGETHER, _IN_TURN)
            or not all(isinstance(n, str) and n.isascii() and n.isdigit() and len(n) < 10 for n in lengths)
        ):
            raise InputError(f"{path}: the entry of a split is damaged; build the data set again")
        splits[one["name"]] = _Split([int(n) for n in lengths], one.get("filepathTemplate", _TOGETHER))
    return name, splits
