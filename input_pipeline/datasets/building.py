"""Builds a data set from scenes: its shards in parallel, then what describes them. See docs/data.md.

While it is being built, a data set is in a hidden folder beside its place. It is moved there when all of it
is written and checked, so what is in its place is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import tensorflow_datasets as tfds
from tqdm import tqdm

from input_pipeline.datasets import form
from input_pipeline.datasets.checking import Checks
from input_pipeline.datasets.processes import default_workers, make_shards
from input_pipeline.datasets.reading import FEATURES, INFO, open_records
from input_pipeline.datasets.shards import Note, Setup, Shard, on_disk, read_note
from input_pipeline.datasets.transcoding import Transcoding
from stp_jax.errors import InputError
from stp_jax.files import read_json, replace_file

SCENES_OF_A_FILE = (8, 256)  # at least, where there are as many; at most
_FILES = 256  # of a split, wanted: enough for all cores, and little to do again after an interruption
SKIPPED = "skipped.txt"
_ADVICE = "Give the same command as then, or delete that folder to begin anew"


class Options(NamedTuple):
    """How a data set is built.

    Attributes:
      checks: what is looked at.
      strict: a broken scene ends the build; otherwise it is left out.
      workers: processes; None: one for each core, fewer for few scenes.
      transcoding: how videos are encoded anew; None: they stay as they are.
    """

    checks: Checks = Checks()
    strict: bool = False
    workers: int | None = None
    transcoding: Transcoding | None = None


class Build:
    """A data set being built; see `records.build`."""

    def __init__(
        self,
        builder_class: Any,
        out: Path,
        splits: Mapping[str, Sequence[Path]],
        options: Options,
        settings: Mapping[str, Any],
    ):
        self._class, self._out, self._options, self._settings = builder_class, out, options, settings
        self._shards = [shard for name, paths in splits.items() for shard in split_up(name, paths)]
        if not self._shards:
            raise InputError("there are no scenes to build a data set of")
        paths: set[Path] = set()
        for path in (path for shard in self._shards for path in shard.paths):
            if path in paths:
                raise InputError(f"{path}: this scene is given twice")
            paths.add(path)
        place = Path(builder_class.name, form.VERSION)
        self.folder = out / place
        self._partial = out / f".{builder_class.name}.partial"
        self._written, self._notes = self._partial / place, self._partial / "notes"

    def run(self) -> Path:
        """Builds it, or goes on where it was interrupted."""
        if self.folder.exists():
            raise InputError(
                f"{self.folder}: the data set exists; choose another --out or delete that folder"
            )
        try:
            for folder in (self._written, self._notes):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self._out}: cannot be written to ({error.strerror})") from error
        try:
            with filelock.FileLock(self._partial / "lock", timeout=0), on_disk(self._out):
                self._check_begun()
                self._make()
                self._finish()
        except filelock.Timeout:
            raise InputError(f"{self._partial}: another process builds this data set") from None
        shutil.rmtree(self._partial, ignore_errors=True)
        return self.folder

    # What was begun ------------------------------------------------------------------------------------

    def _check_begun(self) -> None:
        """Writes down what is built, or compares it with what was begun here."""
        now, file = self._identity(), self._partial / "build.json"
        if file.exists():
            then = read_json(file, dict)
            for name in [*now, *then]:
                if then.get(name) != now.get(name):
                    raise InputError(
                        f"{self._partial}: a build was begun there with other {name} "
                        f"({_shown(then.get(name))}; now {_shown(now.get(name))}). {_ADVICE}"
                    )
        else:
            with replace_file(file) as partial:
                partial.write_text(json.dumps(now, indent=1))
        for name in (INFO, FEATURES, SKIPPED):
            (self._written / name).unlink(missing_ok=True)
        for leftover in self._written.glob(".*"):  # half-written files
            leftover.unlink()

    def _identity(self) -> dict[str, Any]:
        """What the result depends on, by name: as short texts and hashes."""
        found: dict[str, Any] = {"version": form.VERSION}
        for name in dict.fromkeys(shard.split for shard in self._shards):
            shards = [shard for shard in self._shards if shard.split == name]
            paths = [os.path.abspath(path) for shard in shards for path in shard.paths]
            parent = os.path.commonpath([os.path.dirname(path) for path in paths])
            paths = [os.path.relpath(path, parent) for path in paths]
            found[f"scenes of {name}"] = f"{len(paths)} in {len(shards)} files, {_hash(paths)}"
        for name, value in self._options.checks._asdict().items():
            found[f"--{name}"] = str(value)
        if self._options.transcoding is not None:
            found["--transcode"] = json.dumps(self._options.transcoding.as_json())
        for name, value in self._settings.items():
            parts = value._asdict() if hasattr(value, "_asdict") else {"": value}
            for part, one in parts.items():
                text = repr(one)
                found[f"{name} {part}".strip()] = text if len(text) < 100 else _hash(text)
        return found

    # Its files -----------------------------------------------------------------------------------------

    def _make(self) -> None:
        """Makes all shards; those with scenes of a name that was there before again, without them."""
        for _ in self._made(self._shards, {}):
            pass
        twice = self._twice()
        if twice:
            if self._options.strict:
                raise InputError(next(iter(twice.values())))
            again = [shard for shard in self._shards if any(str(path) in twice for path in shard.paths)]
            for _ in self._made(again, twice):
                pass

    def _made(self, shards: Sequence[Shard], excluded: Mapping[str, str]) -> Iterator[Note]:
        setup = Setup(
            self._class,
            self._settings,
            self._written,
            self._notes,
            self._options.checks,
            self._options.strict,
            self._options.transcoding,
        )
        workers = self._options.workers or default_workers(sum(len(shard.paths) for shard in shards))
        kept = 0
        for _, note, was_there in make_shards(setup, shards, excluded, workers):
            kept += was_there
            for path, reason in note.skipped:
                tqdm.write(f"left out {path}: {reason}")
            yield note
        if kept:
            print(f"{kept} of {len(shards)} files were there already, and are whole")

    def _twice(self) -> dict[str, str]:
        """Paths of scenes whose name an earlier scene has, and this reason."""
        seen: dict[str, str] = {}
        twice = {}
        for shard in self._shards:
            for entry in read_note(self._notes, shard).records:
                first = seen.setdefault(entry.scene, entry.path)
                if first != entry.path:
                    twice[entry.path] = f"{entry.path}: has the name of {first}, {entry.scene!r}"
        return twice

    # Its end -------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Writes what describes the files, opens the whole as a user would, and moves it to its place."""
        splits = self._splits()
        skipped = self._write_skipped()
        identity = tfds.core.dataset_info.DatasetIdentity(
            name=self._class.name,
            version=tfds.core.Version(form.VERSION),
            data_dir=str(self._written),
            module_name=self._class.__module__,
        )
        how = self._options.transcoding
        info = tfds.core.DatasetInfo(
            builder=identity,
            features=form.features(),
            metadata=None if how is None else tfds.core.MetadataDict(transcoded=how.as_json()),
        )
        info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD, override=True)
        info.set_splits(tfds.core.splits.SplitDict(list(splits.values())))
        info.write_to_directory(self._written)
        for name, split in splits.items():
            found = len(open_records(self._written, self._class.name, name))
            if found != sum(split.shard_lengths):
                raise InputError(f"{self._written}: {name} has {found} records; is the disk in order?")
        self.folder.parent.mkdir(exist_ok=True)
        os.replace(self._written, self.folder)
        counts = ", ".join(f"{sum(split.shard_lengths)} {name}" for name, split in splits.items())
        left_out = f"; broken and left out: {skipped}, see {SKIPPED} there" if skipped else ""
        print(f"Scenes in {self.folder}: {counts}{left_out}")

    def _splits(self) -> dict[str, tfds.core.splits.SplitInfo]:
        lengths: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        reasons: dict[str, str] = {}
        for shard in self._shards:
            note, name = read_note(self._notes, shard), shard.split
            lengths.setdefault(name, []).append(len(note.records))
            sizes[name] = sizes.get(name, 0) + sum(entry.size for entry in note.records)
            if note.skipped:
                reasons.setdefault(name, note.skipped[0][1])
        for name, numbers in lengths.items():
            if not sum(numbers):
                shutil.rmtree(self._partial)
                raise InputError(f"all scenes of {name} are broken; the first: {reasons[name]}")
        return {
            name: tfds.core.splits.SplitInfo(
                name=name,
                shard_lengths=numbers,
                num_bytes=sizes[name],
                filename_template=tfds.core.naming.ShardedFileTemplate(
                    data_dir=self._written,
                    dataset_name=self._class.name,
                    split=name,
                    filetype_suffix="array_record",
                ),
            )
            for name, numbers in lengths.items()
        }

    def _write_skipped(self) -> int:
        """Lists the scenes that were left out, a line for each, and returns how many they are."""
        count = 0
        with replace_file(self._written / SKIPPED) as partial, open(partial, "w", encoding="utf-8") as file:
            for shard in self._shards:
                for path, reason in read_note(self._notes, shard).skipped:
                    file.write(f"{shard.split}\t{path}\t{reason}\n")
                    count += 1
        if not count:
            (self._written / SKIPPED).unlink()
        return count


def split_up(name: str, paths: Sequence[Path]) -> list[Shard]:
    """The shards of a split; they depend on the number of its scenes alone."""
    least, most = SCENES_OF_A_FILE
    size = min(most, max(least, -(-len(paths) // _FILES)))
    starts = range(0, len(paths), size)
    return [
        Shard(name, number, len(starts), tuple(paths[start : start + size]))
        for number, start in enumerate(starts)
    ]


def _hash(value: Any) -> str:
    return sha256(json.dumps(value).encode(errors="surrogateescape")).hexdigest()[:16]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)[:100]
