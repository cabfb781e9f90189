"""Embeds all captions of data sets once, for training with `config.data.captions`.

    python -m stp_jax.embed_captions --weights models --data data/built data/films --out data/captions

reads the captions of every split of all data sets, or of latent caches, in these folders, and embeds each
distinct one by the text encoder. After an interruption the same command continues; with more data sets it
adds what is missing. Several processes may share the work: --shard 0/4, --shard 1/4 and so on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import filelock
    import numpy as np
    from tqdm import tqdm

    from input_pipeline.caption_embeddings import CaptionEmbeddings, Part, mark_covered, parts_covered
    from input_pipeline.datasets.reading import Records, list_data_sets, open_records, texts
    from input_pipeline.latents import LatentCache
    from input_pipeline.remote import local_folder
    from stp_jax.command_line import Parser, shard_of_work
    from stp_jax.files import size_text
    from stp_jax.text import LENGTH, Encoder, find_tokenizer, tokenize

if TYPE_CHECKING:
    from stp_jax.weights.recognition import Pretrained

DTYPE = "bfloat16"  # of the computation
LENGTHS = (64, 128, 256, LENGTH)  # to which prompts are padded: one program is compiled for each
ALIKE = 0.05  # relative difference of embeddings that different devices may give


class Source(NamedTuple):
    """A split of a data set or of a latent cache."""

    name: str
    identity: str  # empty where its captions can be read at any time
    scenes: Records | list[tuple[str, ...]]

    def captions(self, number: int) -> list[str]:
        """The captions of a scene."""
        scene = self.scenes[number]
        return list(scene) if isinstance(scene, tuple) else texts(scene["captions"])


def find_sources(folders: Sequence[str]) -> list[Source]:
    """Every split of the data sets and latent caches in some folders.

    Raises:
      InputError: a folder holds neither, or one that is damaged.
    """
    sources = []
    for folder in map(Path, folders):
        found = list(_sources_in(folder))
        if not found:
            raise InputError(f"--data {folder}: holds no data set and no latent cache")
        sources += found
    return sources


def _sources_in(folder: Path) -> Iterator[Source]:
    for cache in (folder, *sorted(folder.glob("*"))):
        if (cache / "latents.npy").exists():
            yield Source(str(cache), "", LatentCache.open(cache).captions)
    for place, kind, splits in list_data_sets(folder):
        for split in splits:
            records = open_records(place, kind, split)
            yield Source(f"{place}, {split}", records.identity, records)


class Embedder:
    """Embeds captions into a part of a folder of embeddings; loads the text encoder for the first new one."""

    def __init__(self, found: Pretrained, tokenizer: Path, out: Path, part: tuple[int, int]):
        self._weights, self._tokenizer = found.path, tokenizer
        self._encoder: Encoder | None = None
        config = dataclasses.asdict(found.config)
        del config["dtype"]
        made_by = {"title": found.title, "dtype": DTYPE, "config": config}
        meta: dict[str, Any] = {"dim": found.config.dim, "tokens": LENGTH, "encoder": made_by}
        self._part = Part(out, part, meta)
        self._known = CaptionEmbeddings.open(out)
        self._new: set[str] = set()

    def add(self, caption: str) -> None:
        """Embeds a caption that is not there yet."""
        if caption in self._known or caption in self._new:
            return
        if self._encoder is None:
            self._start()
        if caption not in self._new:
            self._part.add(caption, self._embed(caption))
            self._new.add(caption)

    @property
    def added(self) -> int:
        """The number of captions that were embedded."""
        return len(self._new)

    def _start(self) -> None:
        """Loads the encoder, and compares its embedding of the empty prompt with the one that is there.

        Every part begins with it, so that a folder has embeddings of one text encoder alone.
        """
        self._encoder = Encoder(self._weights, DTYPE)
        empty, first = self._embed(""), self._known.embedding(0) if len(self._known) else None
        if self._part.first() is None:
            self._part.add("", empty)
            self._new.add("")
        if first is not None:
            apart = np.linalg.norm(empty - first.astype(np.float32)) / np.linalg.norm(empty)
            if first.shape != empty.shape or not apart < ALIKE:
                raise InputError(
                    f"{self._weights}: another text encoder than the one that made the embeddings in "
                    f"{self._known.path}; choose another folder or delete it"
                )

    def _embed(self, caption: str) -> np.ndarray:
        """The embedding of a caption, float32 [its tokens, D]."""
        assert self._encoder is not None
        ids, mask = tokenize([caption], self._tokenizer)
        if ids.max() >= self._encoder.vocab:
            raise InputError(f"{self._tokenizer} does not belong to the text encoder {self._weights}")
        count = int(mask.sum())
        length = next(n for n in LENGTHS if n >= count)
        return self._encoder(ids[:, :length], mask[:, :length])[0, :count]


def embed_captions(
    weights: str, data: Sequence[str], out: str | Path, part: tuple[int, int] = (0, 1)
) -> CaptionEmbeddings:
    """Embeds the captions of all data sets and latent caches in the folders `data` into the folder `out`.

    Args:
      weights: of the text encoder.
      part: (I, N): of every split the scenes I, I + N, I + 2 N ...

    Raises:
      InputError: a data set, the text encoder or its tokenizer cannot be read; `out` holds something else, or
        embeddings of another encoder; another process works on this part.
    """
    from stp_jax.weights import recognition

    out = Path(out)
    found = recognition.recognise(weights, "text_encoder")
    recognition.print_remarks(found)
    tokenizer = find_tokenizer(found.path)
    sources = find_sources(data)
    if out.exists() and any(out.iterdir()) and not (out / "meta.json").exists():
        raise InputError(f"--out {out}: the folder is not empty and holds no embeddings of captions")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(out / "part_{}_of_{}.lock".format(*part), timeout=0):
            embedder = Embedder(found, tokenizer, out, part)
            counts = [_embed_source(source, embedder, out, part) for source in sources]
    except filelock.Timeout:
        raise InputError(f"--out {out}: another process works on part {part[0]}/{part[1]}") from None
    except NotImplementedError:
        raise InputError(f"--out {out}: its file system has no locks; choose a folder on another") from None
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None
    embeddings = CaptionEmbeddings.open(out)
    for source, captions in zip(sources, counts, strict=True):
        print(f"{source.name}: {captions} captions of {len(source.scenes)} scenes")
    size = size_text(sum(file.stat().st_size for file in out.glob("part_*.float16")))
    print(f"{out}: {embedder.added} new embeddings, {len(embeddings)} in all, {size}")
    return embeddings


def _embed_source(source: Source, embedder: Embedder, out: Path, part: tuple[int, int]) -> str:
    """Embeds the captions of a part of a data set; returns their number, for people."""
    if part in parts_covered(out, source.identity):
        return "all"
    count = 0
    for number in tqdm(range(part[0], len(source.scenes), part[1]), source.name, unit="scene"):
        for caption in source.captions(number):
            embedder.add(caption)
            count += 1
    if source.identity:
        mark_covered(out, source.identity, part, source.name, count)
    return str(count)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stp_jax.embed_captions", description=__doc__)
    add = parser.add_argument
    add("--weights", required=True, help="text encoder, or a folder that holds one")
    add(
        "--data",
        required=True,
        nargs="+",
        type=local_folder,
        metavar="FOLDER",
        help="of built data sets or latent caches",
    )
    add(
        "--out",
        required=True,
        type=local_folder,
        metavar="FOLDER",
        help="of the embeddings; a new one, or one to add to",
    )
    add(
        "--shard",
        type=shard_of_work,
        default=(0, 1),
        metavar="I/N",
        help="of N processes at once this is number I, from 0",
    )
    flags = parser.parse_args(arguments)
    embed_captions(flags.weights, flags.data, flags.out, flags.shard)


if __name__ == "__main__":
    main()
