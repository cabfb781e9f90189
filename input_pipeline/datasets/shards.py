"""Shards: the files of a data set, each with the records of some scenes; how one is written and checked.

A shard holds the scenes of a fixed stretch of a split's list, less the broken ones. So the files do not
depend on how many processes write them, and a build that was interrupted keeps those that are there. Beside
the data set being built each shard has a note, a JSON file: of which inputs it was made, the hashes of its
records, and which scenes were left out.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from input_pipeline.datasets import form
from input_pipeline.datasets.checking import Checks, checked
from input_pipeline.datasets.transcoding import Transcoding, transcoded
from stp_jax.errors import InputError
from stp_jax.files import read_json, replace_file

# One record in each chunk, as tensorflow-datasets has it. Videos are compressed already: without a second
# compression 100 MB are written in 0.29 s instead of 0.75 s, and read in 0.28 s instead of 0.83 s.
_WRITING = "group_size:1,uncompressed"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk
_READING = "readahead_buffer_size:0,max_parallelism:0"


class Shard(NamedTuple):
    """Some scenes of a split.

    Attributes:
      number, of: which of the split's shards it is, of how many.
      paths: of the scenes.
    """

    split: str
    number: int
    of: int
    paths: tuple[Path, ...]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"

    def file(self, data_set: str) -> str:
        """Its file's name, as tensorflow-datasets has it."""
        return f"{data_set}-{self.split}.array_record-{self.number:05d}-of-{self.of:05d}"


class Entry(NamedTuple):
    """A record of a shard."""

    scene: str
    path: str
    size: int  # bytes
    sha256: str


class Note(NamedTuple):
    """What is known of a finished shard.

    Attributes:
      inputs: the fingerprint of its inputs.
      records: in their order.
      skipped: path of a scene, and why it was left out.
    """

    inputs: str
    records: list[Entry]
    skipped: list[tuple[str, str]]


class Setup(NamedTuple):
    """What all shards of a build share; it travels to other processes.

    Attributes:
      builder_class: a `records.SceneBuilder`.
      settings: arguments of it.
      folder: of the files, OUT/.NAME.partial/NAME/VERSION.
      notes: folder of the notes.
      checks: what is looked at.
      strict: whether a broken scene ends the build.
      transcoding: how videos are encoded anew; None: they stay as they are.
    """

    builder_class: Any
    settings: Mapping[str, Any]
    folder: Path
    notes: Path
    checks: Checks
    strict: bool
    transcoding: Transcoding | None = None


class ShardMaker:
    """Writes shards.

    Args:
      setup: of the build.
      each: is called after each scene; it may raise to stop.
    """

    def __init__(self, setup: Setup, each: Callable[[], None]):
        self._setup, self._each = setup, each
        self._builder = setup.builder_class(data_dir=str(setup.folder.parents[1]), **setup.settings)
        self._features = form.features()
        self._serializer = tfds.core.example_serializer.ExampleSerializer(
            self._features.get_serialized_info()
        )

    def make(self, shard: Shard, excluded: Mapping[str, str]) -> tuple[Note, bool]:
        """The note of a shard, and whether it was there already.

        Args:
          excluded: paths of scenes to leave out, and why.

        Raises:
          InputError: a scene is broken and the build strict; the disk is full.
        """
        note = self._kept(shard)
        if note is not None and not any(entry.path in excluded for entry in note.records):
            if self._setup.strict and note.skipped:
                raise InputError(note.skipped[0][1])
            for _ in shard.paths:
                self._each()
            return note, True
        self._note_file(shard).unlink(missing_ok=True)
        with on_disk(self._setup.folder.parents[2]):
            return self._write(shard, excluded), False

    def _note_file(self, shard: Shard) -> Path:
        return self._setup.notes / f"{shard.name}.json"

    def _file(self, shard: Shard) -> Path:
        return self._setup.folder / shard.file(self._builder.name)

    def _kept(self, shard: Shard) -> Note | None:
        """The note of a shard that is whole, and was made of inputs that are as they were; else None."""
        try:
            note = read_note(self._setup.notes, shard)
            if note.inputs != fingerprint(shard):
                return None
            if note.records:
                verify(self._file(shard), note)
            return note
        except InputError:
            return None

    def _write(self, shard: Shard, excluded: Mapping[str, str]) -> Note:
        note, file = Note(fingerprint(shard), [], []), self._file(shard)
        with replace_file(file) as partial:
            writer = ArrayRecordWriter(str(partial), _WRITING)
            for path in shard.paths:
                try:
                    if str(path) in excluded:
                        raise InputError(excluded[str(path)])
                    scene, data = self._read(path)
                except InputError as error:
                    if self._setup.strict:
                        raise
                    note.skipped.append((str(path), " ".join(str(error).split())))
                else:
                    writer.write(data)
                    note.records.append(Entry(scene, str(path), len(data), sha256(data).hexdigest()))
                self._each()
            writer.close()
            with open(partial, "rb+") as written:
                os.fsync(written.fileno())
            verify(partial, note)
        if not note.records:  # such files are not part of a data set
            file.unlink()
        with replace_file(self._note_file(shard)) as partial:
            partial.write_text(json.dumps(note._asdict()))
        return note

    def _read(self, path: Path) -> tuple[str, bytes]:
        """The name and the bytes of a scene's record."""
        try:
            record = self._builder.read_scene(path)
        except OSError as error:
            if error.errno in _FULL:  # where it keeps what it transcodes
                raise
            raise InputError(f"{error.filename or path}: cannot be read ({error.strerror})") from None
        record = checked(record, path.name, self._setup.checks)
        if self._setup.transcoding is not None:
            record = checked(transcoded(record, self._setup.transcoding), path.name, self._setup.checks)
        example = self._serializer.get_tf_example(self._features.encode_example(record))
        return record["scene"], example.SerializeToString(deterministic=True)


def read_note(folder: Path, shard: Shard) -> Note:
    """The note of a shard. Raises `InputError` where there is none, or it is damaged."""
    path = folder / f"{shard.name}.json"
    data = read_json(path, dict)
    try:
        records = [Entry(*entry) for entry in data["records"]]
        note = Note(data["inputs"], records, [(where, reason) for where, reason in data["skipped"]])
    except (LookupError, TypeError, ValueError):
        raise InputError(f"{path}: damaged; delete it, and give the command again") from None
    texts = [text for entry in records for text in (entry.scene, entry.path, entry.sha256)]
    texts += [text for pair in note.skipped for text in pair]
    whole = all(isinstance(text, str) for text in texts)
    if not whole or not all(type(entry.size) is int and entry.size >= 0 for entry in records):
        raise InputError(f"{path}: damaged; delete it, and give the command again")
    return note


def verify(file: Path, note: Note) -> None:
    """Raises `InputError` where a file's records are not those of its note."""
    try:
        reader = ArrayRecordReader(str(file), _READING)
        count = reader.num_records()
        if count == len(note.records):
            for place, entry in enumerate(note.records):
                if sha256(reader.read([place])[0]).hexdigest() != entry.sha256:
                    raise InputError(f"{file}: record {place} is not what was written; is the disk in order?")
        reader.close()
    except RuntimeError as error:  # of ArrayRecord
        raise InputError(f"{file}: cannot be read back ({str(error)[:200]})") from None
    if count != len(note.records):
        raise InputError(f"{file}: {count} records instead of {len(note.records)}; is the disk in order?")


def fingerprint(shard: Shard) -> str:
    """A hash of the names, sizes and times of the files of a shard's scenes, at or below their paths."""
    found = sha256()
    for path in shard.paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            with contextlib.suppress(OSError):
                stat, name = file.stat(), file.relative_to(path.parent)
                found.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


@contextlib.contextmanager
def on_disk(out: Path) -> Iterator[None]:
    """Turns errors of a disk that is full into an `InputError`; ArrayRecord has them as texts alone."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = next((text for text in map(os.strerror, _FULL) if text in str(error)), None)
        if reason is None:
            raise
        raise InputError(
            f"--out {out}: cannot be written to ({reason}). Free some space there; the same command goes on."
        ) from None
