"""Compares latent caches and embeddings of captions with their checksums.

    python -m stp_jax.encode_dataset.verify data/latents data/captions

reads all of them and lists what is damaged; exit status 1 where anything is. --again marks damaged scenes of
latent caches as missing: the same stp_jax.encode_dataset command then encodes these alone once more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    from tqdm import tqdm

    from input_pipeline.caption_embeddings import CaptionEmbeddings
    from input_pipeline.latents import LatentCache
    from input_pipeline.remote import local_folder
    from stp_jax.command_line import Parser


def find(folder: Path) -> Iterator[Path]:
    """The latent caches and embeddings of captions in a folder, or the one that it is.

    Raises:
      InputError: there is none.
    """
    found = [place for place in (folder, *sorted(folder.glob("*"))) if (place / "meta.json").is_file()]
    if not found:
        raise InputError(f"{folder}: holds no latent cache and no embeddings of captions")
    yield from found


def verify_latents(path: Path, again: bool = False) -> list[int]:
    """The scenes of a latent cache that are damaged; `again` marks them as missing."""
    cache = LatentCache.open(path)
    if not cache.has_checksums:
        print(f"{path}: of an earlier version, without checksums; it can be read, but not verified")
        return []
    damaged = [scene for scene in tqdm(range(cache.scenes), str(path), unit="scene") if cache.damaged(scene)]
    if again:
        for scene in damaged:
            cache.reopen(scene)
    return damaged


def verify_captions(path: Path) -> list[int]:
    """The rows of a folder of embeddings that are damaged."""
    embeddings = CaptionEmbeddings.open(path)
    return [row for row in range(len(embeddings)) if embeddings.damaged(row)]


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stp_jax.encode_dataset.verify", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=local_folder, help="latent caches, embeddings, or folders of them"
    )
    parser.add_argument("--again", action="store_true", help="mark damaged scenes as missing")
    flags = parser.parse_args(arguments)
    whole = True
    for path in [found for folder in flags.folders for found in find(folder)]:
        if (path / "latents.npy").exists():
            damaged, what = verify_latents(path, flags.again), "scenes"
        else:
            damaged, what = verify_captions(path), "embeddings"
        whole &= not damaged
        numbers = ", ".join(map(str, damaged[:20])) + (" ..." if len(damaged) > 20 else "")
        print(f"{path}: {f'{len(damaged)} {what} are damaged: {numbers}' if damaged else 'whole'}")
        if damaged and flags.again and what == "scenes":
            print("They are marked as missing: the same stp_jax.encode_dataset command encodes them again.")
    if not whole:
        sys.exit(1)


if __name__ == "__main__":
    main()
