"""Embeddings of captions: a folder that `python -m stp_jax.embed_captions` writes, and training maps.

    meta.json            number of channels D, most tokens of a caption, which text encoder made it
    part_I_of_N.float16  [tokens, D], the tokens of one caption after the other, without padding
    part_I_of_N.jsonl    a line for each caption: its SHA-256, text, first token, number of tokens, CRC-32
    covered.jsonl        a line for each data set whose captions are all here

Several processes write a part each. A caption's line is written after its tokens, so that what an
interruption cut off is not counted. float16 holds what the encoder computes in bfloat16: that has fewer
digits, and no number above 65,504 (which is checked).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.files import file_size, read_json, read_json_lines, replace_file

COMMAND = "python -m stp_jax.embed_captions --weights ENCODER"
_MOST = 2**24  # bytes of meta.json
_FORM = 1


class Entry(NamedTuple):
    """Where the embedding of a caption is."""

    part: int
    start: int  # its first token
    tokens: int
    crc32: int  # of its bytes


def key_of(caption: str) -> str:
    """The name of a caption in the index."""
    return sha256(caption.encode(errors="replace")).hexdigest()


class CaptionEmbeddings:
    """The embeddings in a folder, see `open`; its captions have rows, 0 and up, in the order of the index."""

    def __init__(self, path: Path, meta: Mapping[str, Any], parts: Sequence[Path]):
        self.path, self.meta, self._parts = path, meta, list(parts)
        self.dim, self.tokens = int(meta["dim"]), int(meta["tokens"])
        self._entries: list[Entry] = []
        self._rows: dict[str, int] = {}  # by key
        self._arrays = []
        for number, part in enumerate(self._parts):
            end = self._read_index(number, part)
            self._arrays.append(_map(part, end, self.dim))
        self._verified = np.zeros(len(self._entries), bool)

    def __reduce__(self):
        # A memory map pickles as all of its bytes: workers open the files themselves.
        return CaptionEmbeddings, (self.path, self.meta, self._parts)

    @classmethod
    def open(cls, path: str | Path) -> CaptionEmbeddings:
        """Opens a folder of embeddings for reading.

        Raises:
          InputError: there are none, or they are damaged.
        """
        path = Path(path)
        if not (path / "meta.json").is_file():
            raise InputError(f"captions {path}: no embeddings there; write them with {COMMAND} --out {path}")
        return cls(path, read_meta(path), sorted(path.glob("part_*.jsonl")))

    def _read_index(self, number: int, part: Path) -> int:
        """Reads the index of a part; returns the number of its tokens."""
        end = 0
        for fields in read_index(part):
            entry = Entry(number, fields["start"], fields["tokens"], fields["crc32"])
            if entry.start != end or not 0 < entry.tokens <= self.tokens:
                raise InputError(f"{part}: damaged; delete the folder and write the embeddings again")
            end += entry.tokens
            if fields["sha256"] not in self._rows:  # several processes may have embedded the same caption
                self._rows[fields["sha256"]] = len(self._entries)
                self._entries.append(entry)
        return end

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, caption: str) -> bool:
        return key_of(caption) in self._rows

    def row(self, caption: str) -> int:
        """The row of a caption. Raises `InputError` where it is not here."""
        row = self._rows.get(key_of(caption))
        if row is None:
            raise InputError(
                f"captions {self.path}: no embedding of {caption[:60]!r}; {COMMAND} --data DATA "
                f"--out {self.path} adds what is missing"
            )
        return row

    def embedding(self, row: int) -> np.ndarray:
        """The embedding of a caption, float16 [its tokens, D]; its checksum is compared the first time.

        Raises:
          InputError: it is damaged.
        """
        if not self._verified[row]:
            if self.damaged(row):
                part = data_file(self._parts[self._entries[row].part])
                raise InputError(f"{part}: damaged; delete the folder and write the embeddings again")
            self._verified[row] = True
        return self._stored(row)

    def damaged(self, row: int) -> bool:
        """Whether an embedding differs from its checksum."""
        return zlib.crc32(self._stored(row).data) != self._entries[row].crc32

    def _stored(self, row: int) -> np.ndarray:
        entry = self._entries[row]
        return self._arrays[entry.part][entry.start : entry.start + entry.tokens]

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Embeddings of rows [B], those of -1 have none: text float16 [B, tokens, D], zeros behind the end of
        each caption; has_caption bool [B]."""
        text = np.zeros((len(rows), self.tokens, self.dim), np.float16)
        for place, row in enumerate(rows.tolist()):
            if row >= 0:
                found = self.embedding(row)
                text[place, : len(found)] = found
        return {"text": text, "has_caption": np.asarray(rows) >= 0}

    def covers(self, identity: str) -> bool:
        """Whether all captions of a data set are here, see `mark_covered`."""
        return identity in covered(self.path)

    def lacks_captions(self, identity: str) -> bool:
        """Whether it is known that a data set has no captions, see `mark_covered`."""
        return self.covers(identity) and not any(
            captions for one, _, captions in _covered_parts(self.path) if one == identity
        )


class Draw(NamedTuple):
    """Draws the caption of an example.

    Attributes:
      embeddings: which have all captions.
      dropout: the share of examples that get none.
    """

    embeddings: CaptionEmbeddings
    dropout: float

    def __call__(self, rng: np.random.Generator, captions: Sequence[str]) -> np.int32:
        """The row of one of a scene's captions, or -1: the scene has none, or it is dropped."""
        return self.of_rows(rng, [self.embeddings.row(caption) for caption in captions])

    def of_rows(self, rng: np.random.Generator, rows: Sequence[int] | np.ndarray) -> np.int32:
        """As `draw`, of the rows of a scene's captions."""
        dropped = rng.random() < self.dropout
        return np.int32(rows[int(rng.integers(len(rows)))] if len(rows) and not dropped else -1)


def with_text(embeddings: CaptionEmbeddings, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch with the embeddings of its captions instead of their rows, see `CaptionEmbeddings.batch`."""
    batch = dict(batch)
    return batch | embeddings.batch(batch.pop("caption"))


def read_meta(path: Path) -> dict[str, Any]:
    """The meta.json of a folder of embeddings. Raises `InputError` where it is none."""
    meta = read_json(path / "meta.json", dict, most=_MOST)
    sizes = [meta.get("dim"), meta.get("tokens")]
    if meta.get("form") != _FORM or not all(type(n) is int and 0 < n < 2**20 for n in sizes):
        raise InputError(f"{path / 'meta.json'}: is not of embeddings of captions, or is damaged")
    return meta


def read_index(part: Path) -> list[dict[str, Any]]:
    """The lines of a part's index that are complete.

    Raises:
      InputError: one of them is damaged.
    """
    lines = part.read_bytes().split(b"\n")[:-1]  # the last one has no end, and is empty or cut off
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            sizes = [fields[name] for name in ("start", "tokens", "crc32")]
            whole = (
                all(type(n) is int and n >= 0 for n in sizes) and key_of(fields["text"]) == fields["sha256"]
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise InputError(
                f"{part}: line {number} is damaged; delete the folder and write the embeddings again"
            )
        entries.append(fields)
    return entries


def data_file(part: Path) -> Path:
    """The file of the tokens beside an index."""
    return part.with_suffix(".float16")


def _map(part: Path, tokens: int, dim: int) -> np.ndarray:
    """Maps the tokens of a part, float16 [tokens, dim]; another process may be appending more."""
    file = data_file(part)
    if not tokens:
        return np.zeros((0, dim), np.float16)
    try:
        if file_size(file) < 2 * tokens * dim:
            raise InputError(f"{file}: truncated; delete the folder and write the embeddings again")
        # Not of the type memmap: slices of plain arrays cost less.
        return np.asarray(np.memmap(file, np.float16, "r", 0, (tokens, dim)))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None


class Part:
    """A part that this process writes. Not to be opened by two processes at once.

    Args:
      path: the folder; made if it does not exist.
      shard: (I, N), the number of the part and of all parts.
      meta: JSON values for meta.json: dim, tokens, and what made the embeddings.

    Raises:
      InputError: the folder has embeddings of another text encoder, or cannot be written.
    """

    def __init__(self, path: Path, shard: tuple[int, int], meta: Mapping[str, Any]):
        wanted = json.loads(json.dumps({"form": _FORM, **meta}))
        self.index = path / "part_{}_of_{}.jsonl".format(*shard)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / "meta.json").exists():
                found = read_meta(path)
                if differing := sorted(k for k in found | wanted if found.get(k) != wanted.get(k)):
                    raise InputError(
                        f"captions {path}: begun with another text encoder ({', '.join(differing)}); choose "
                        "another folder or delete it"
                    )
            else:
                with replace_file(path / "meta.json") as partial:
                    partial.write_text(json.dumps(wanted, indent=1))
            self.index.touch()
            data_file(self.index).touch()
            self._end = self._cut_off()
        except OSError as error:
            raise InputError(f"captions {path}: cannot be written ({error.strerror})") from None
        self._dim = wanted["dim"]

    def _cut_off(self) -> int:
        """Cuts off what an interruption left without an end; returns the number of tokens."""
        lines = read_index(self.index)
        os.truncate(self.index, self.index.read_bytes().rfind(b"\n") + 1)
        end = sum(line["tokens"] for line in lines)
        size = 2 * end * read_meta(self.index.parent)["dim"]
        if file_size(data_file(self.index)) < size:
            raise InputError(
                f"{data_file(self.index)}: truncated; delete the folder and write the embeddings again"
            )
        os.truncate(data_file(self.index), size)
        return end

    def add(self, caption: str, embedding: np.ndarray) -> None:
        """Appends a caption and its embedding [its tokens, D].

        Raises:
          InputError: it cannot be written, or has numbers that float16 cannot hold.
        """
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(embedding, np.float16)
        if stored.ndim != 2 or stored.shape[1] != self._dim:
            raise ValueError(f"an embedding of shape {embedding.shape}, not [tokens, {self._dim}]")
        if not np.isfinite(stored).all():
            raise InputError(f"the embedding of {caption[:60]!r} has numbers that float16 cannot hold")
        line = {
            "sha256": key_of(caption),
            "start": self._end,
            "tokens": len(stored),
            "crc32": zlib.crc32(stored.data),
            "text": caption,
        }
        _append(data_file(self.index), stored.tobytes())
        _append(self.index, json.dumps(line).encode() + b"\n")
        self._end += len(stored)

    def first(self) -> np.ndarray | None:
        """The first embedding, if there is one, float16 [its tokens, D]."""
        lines = read_index(self.index)
        return _map(self.index, lines[0]["tokens"], self._dim) if lines else None


def _append(path: Path, data: bytes) -> None:
    """Appends to a file, on the disk itself."""
    try:
        with open(path, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}. Free some space there: the same command continues."
        ) from None


def mark_covered(path: Path, identity: str, shard: tuple[int, int], name: str, captions: int) -> None:
    """Notes that part (I, N) of the scenes of a data set have their `captions` in this folder."""
    line = {"data_set": identity, "shard": list(shard), "name": name, "captions": captions}
    _append(path / "covered.jsonl", json.dumps(line).encode() + b"\n")


def covered(path: Path) -> set[str]:
    """The identities of the data sets all whose captions are in this folder."""
    found: dict[tuple[str, int], set[int]] = {}
    for identity, (number, count), _ in _covered_parts(path):
        found.setdefault((identity, count), set()).add(number)
    return {identity for (identity, count), parts in found.items() if len(parts) == count}


def parts_covered(path: Path, identity: str) -> set[tuple[int, int]]:
    """The parts (I, N) of a data set that are noted, see `mark_covered`."""
    return {part for one, part, _ in _covered_parts(path) if one == identity}


def _covered_parts(path: Path) -> list[tuple[str, tuple[int, int], int]]:
    """Identity, part and number of captions of each note; -1: an older note, which does not say."""
    if not (path / "covered.jsonl").is_file():
        return []
    found = []
    for line in read_json_lines(path / "covered.jsonl"):
        identity, part = line.get("data_set"), line.get("shard")
        if isinstance(identity, str) and isinstance(part, list) and [type(n) for n in part] == [int, int]:
            if 0 <= part[0] < part[1]:
                captions = line.get("captions")
                found.append((identity, (part[0], part[1]), captions if type(captions) is int else -1))
    return found
