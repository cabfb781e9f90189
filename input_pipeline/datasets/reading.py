"""Opens a built data set: dataset_info.json, features.json and the ArrayRecord files beside them.

The three are read without tensorflow-datasets' builders: these import whatever class a features.json names,
and trust the numbers of records in a dataset_info.json. ArrayRecord has checksums of its own for every chunk.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf import json_format

from input_pipeline.datasets import form
from input_pipeline.remote import RemoteFolder, is_remote, local_path
from stp_jax.errors import InputError
from stp_jax.files import read_json

INFO, FEATURES = "dataset_info.json", "features.json"
# What tensorflow-datasets calls files that are written together, and one after the other.
_TOGETHER, _IN_TURN = (
    f"{{DATASET}}-{{SPLIT}}.{{FILEFORMAT}}-{{{end}}}" for end in ("SHARD_X_OF_Y", "SHARD_INDEX")
)
_BUILDERS = "input_pipeline.datasets."
_MOST = 2**24  # bytes of either JSON file


class Records(Sequence):
    """The decoded records of ArrayRecord files, in order, all in the form of `form`.

    Args:
      files: of which each has as many records as `lengths` says.
      old_kind: None for records of today's form; else of which earlier one, see `form.old_features`.
      remote: the folder in object storage that has the files, of which each is downloaded at its first use.

    Raises:
      InputError: a file is missing, damaged or has another number of records; on access, for a record that is
        damaged, and for a remote file.
    """

    def __init__(
        self,
        files: Sequence[Path],
        lengths: Sequence[int],
        old_kind: str | None = None,
        remote: RemoteFolder | None = None,
    ):
        self._files, self._lengths, self._old_kind = list(files), list(lengths), old_kind
        self._remote = remote
        self._open()
        if remote is not None:
            return
        for file, length in zip(self._files, self._lengths, strict=True):
            found = _guarded(file, lambda file=file: len(ArrayRecordDataSource(str(file))))
            if found != length:
                raise InputError(f"{file}: has {found} records, and {INFO} beside it says {length}")

    def _open(self) -> None:
        self._features = form.old_features(self._old_kind) if self._old_kind else form.features()
        self._fetched: dict[int, ArrayRecordDataSource] = {}
        if self._remote is not None:
            return
        missing = [file for file in self._files if not file.is_file()]
        if missing:
            raise InputError(f"{missing[0]}: no such file; build the data set again")
        self._source = _guarded(
            self._files[0], lambda: ArrayRecordDataSource([str(file) for file in self._files])
        )

    def __getstate__(self):
        return {name: getattr(self, name) for name in ("_files", "_lengths", "_old_kind", "_remote")}

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
        return _guarded(f"{self._files[file]}: record {place}", lambda: self._decoded(index, file, place))

    @property
    def identity(self) -> str:
        """A hash that changes with the files of these records; where they lie does not matter."""
        sizes = self._remote.sizes if self._remote else {f.name: f.stat().st_size for f in self._files}
        files = [(file.name, sizes[file.name]) for file in self._files]
        return sha256(json.dumps([files, self._lengths, self._old_kind]).encode()).hexdigest()

    @property
    def may_have_captions(self) -> bool:
        """Whether records of this version have captions."""
        return self._old_kind is None

    def _decoded(self, index: int, file: int, place: int) -> dict[str, Any]:
        data = self._source[index] if self._remote is None else self._file(file)[place]
        record = self._features.deserialize_example_np(data)
        return form.from_old(record, self._old_kind) if self._old_kind else record

    def _file(self, number: int) -> ArrayRecordDataSource:
        """A remote file, which is downloaded if it was not."""
        if number not in self._fetched:
            assert self._remote is not None
            source = ArrayRecordDataSource(str(self._remote.fetch(self._files[number].name)))
            if len(source) != self._lengths[number]:
                raise InputError(
                    f"{self._remote.url}/{self._files[number].name}: has {len(source)} records, and {INFO} "
                    f"beside it says {self._lengths[number]}"
                )
            self._fetched[number] = source
        return self._fetched[number]


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

    `path` is the folder given as --out when it was built, or the data set's own folder; it may be in object
    storage (`input_pipeline.remote`). `kind` is the name of the data set, as of its builder. Data sets of
    earlier versions are read, too.

    Raises:
      InputError: no data set of this name is there, it is damaged, its version is another than its records',
        or the split is missing or empty.
    """
    check_name(kind)
    remote = _find_remote(str(path), kind) if is_remote(path) else None
    folder = remote.local if remote else _find(local_path(path), kind)
    name, version, splits = _read_info(folder / INFO)
    if name != kind:
        raise InputError(f"data set {folder}: of kind {name[:100]!r}, but data.kind = {kind!r}")
    if split not in splits or not sum(splits[split].lengths):
        available = ", ".join(splits)[:500] or "none"
        raise InputError(f"data set {folder}: no split {split!r} with scenes in it; there is: {available}")
    old_kind = _old_kind(folder, version)
    lengths = splits[split].lengths
    end = f"-of-{len(lengths):05d}" if splits[split].template == _TOGETHER else ""
    files = [folder / f"{kind}-{split}.array_record-{number:05d}{end}" for number in range(len(lengths))]
    used = [place for place, length in enumerate(lengths) if length]  # empty files are not written
    files, lengths = [files[place] for place in used], [lengths[place] for place in used]
    if remote is not None:
        remote.require([file.name for file in files])
    return Records(files, lengths, old_kind, remote)


def list_data_sets(path: Path) -> list[tuple[Path, str, list[str]]]:
    """The data sets in a folder, the newest of each kind, or the one that it is: folder, kind and splits.

    Raises:
      InputError: the description of one of them is damaged.
    """
    newest = {file.parent.parent: file.parent for file in sorted(path.glob(f"*/*/{INFO}"))}
    folders = [path] if (path / INFO).exists() else list(newest.values())
    found = []
    for folder in folders:
        name, _, splits = _read_info(folder / INFO)
        found.append((folder, name, [split for split, files in splits.items() if sum(files.lengths)]))
    return found


def texts(values: Any) -> list[str]:
    """A field of texts of a record."""
    return [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values]


def check_name(kind: str) -> None:
    """Raises `InputError` where `data.kind` cannot be the name of a data set."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", kind):
        raise InputError(f"data.kind = {kind[:100]!r}: must be the name of a data set, such as cam_x_time")


def _old_kind(folder: Path, version: str) -> str | None:
    """Of which earlier form a data set's records are, by its features.json, see `form.old_features`.

    None: of today's.

    Raises:
      InputError: the fields are not those of this version, or the version is not known.
    """
    if version == form.VERSION:
        known: dict[str | None, Any] = {None: form.features()}
    elif version == form.OLD_VERSION:
        known = {kind: form.old_features(kind) for kind in form.OLD_CAMERAS}
    else:
        raise InputError(
            f"data set {folder}: of version {version[:100]!r}; this program reads {form.VERSION} "
            f"and {form.OLD_VERSION}"
        )
    found = read_json(folder / FEATURES, dict, most=_MOST)
    for kind, fields in known.items():
        if found == json_format.MessageToDict(fields.to_proto()):
            return kind
    raise InputError(
        f"{folder / FEATURES}: not the fields of a data set of version {version}; build the data set again"
    )


def _find(path: Path, kind: str) -> Path:
    """The folder of the newest data set of this kind. Raises `InputError` where there is none."""
    if not path.is_dir():
        raise InputError(f"data set {path}: no such folder")
    folders = [f for f in (path, *sorted((path / kind).glob("*"), reverse=True)) if (f / INFO).exists()]
    if folders:
        return folders[0]
    others = sorted(f.parent.parent.name for f in path.glob(f"*/*/{INFO}"))
    if others:
        found = f"it holds {', '.join(others)}"
    elif importlib.util.find_spec(_BUILDERS + kind):
        found = f"build it with python -m {_BUILDERS}{kind}"
    else:
        found = "docs/data.md has the commands that build one"
    raise InputError(f"data set {path}: no data set of kind {kind!r} there; {found}")


def _find_remote(url: str, kind: str) -> RemoteFolder:
    """As `_find`, in object storage, with local copies of what describes the data set."""
    for place in ("", f"/{kind}/{form.VERSION}", f"/{kind}/{form.OLD_VERSION}"):
        try:
            folder = RemoteFolder(url.rstrip("/") + place)
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            continue
        if INFO in folder.sizes:
            described = [INFO, FEATURES]
            folder.require(described)
            for name in described:
                folder.fetch(name)
            return folder
    raise InputError(f"data set {url}: no data set of kind {kind!r} there, or no such bucket or folder")


class _Split(NamedTuple):
    lengths: list[int]  # numbers of records of its files
    template: str  # of their names


def _read_info(path: Path) -> tuple[str, str, dict[str, _Split]]:
    """The data set's name, its version, and its splits by name."""
    info = read_json(path, dict, most=_MOST)
    name, version, listed = info.get("name"), info.get("version"), info.get("splits", [])
    texts = isinstance(name, str) and isinstance(version, str)
    if info.get("fileFormat") != "array_record" or not texts or not isinstance(listed, list):
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
    return name, version, splits
