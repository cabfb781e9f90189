"""Prompts to embeddings: cleaned and tokenised as in Wan2.1, embedded by umT5, cached on disk.

    python -m stp_jax.text --weights models --prompt "a dog runs over a meadow" --out dog.npz

writes embeddings for training, which then needs no text encoder. Tokenisation needs the extra `text`.
"""

from __future__ import annotations

import functools
import hashlib
import html
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from stp_jax.command_line import Parser
    from stp_jax.files import cache_folder, replace_file
    from stp_jax.user_input import load_arrays

LENGTH = 512  # tokens that the DiT looks at, most of them padding
# Of Wan2.1's shared_config.py (Apache-2.0): the weights were tuned with exactly these words.
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，"
    "形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
TOKENIZERS = ("google/umt5-xxl/tokenizer.json", "tokenizer/tokenizer.json", "tokenizer.json")


class Tokens(NamedTuple):
    """Tokens of P prompts."""

    ids: np.ndarray  # int32 [P, LENGTH], padded with 0
    mask: np.ndarray  # bool [P, LENGTH], true for the tokens of the prompt


def clean(prompt: str) -> str:
    """A prompt as the official code cleans it: broken Unicode mended, HTML unescaped, single spaces."""
    import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


def find_tokenizer(weights: str | os.PathLike) -> Path:
    """The tokenizer.json that belongs to the weights of a text encoder.

    Raises:
      InputError: there is none beside them; or the extra `text` is not installed.
    """
    try:
        import ftfy  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise InputError(f"Prompts need the package {error.name}: pip install 'stp-jax[text]'.") from None
    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    places = [base / name for base in (folder, folder.parent) for name in TOKENIZERS]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"{weights}: its tokenizer is missing. Put the tokenizer.json of google/umt5-xxl to "
        f"{folder / TOKENIZERS[0]}, or into a folder tokenizer beside the text encoder."
    )


def tokenize(prompts: Sequence[str], tokenizer: str | os.PathLike) -> Tokens:
    """Cleans prompts and cuts them into tokens, at most `LENGTH` each; prints a notice for longer ones.

    Raises:
      InputError: the tokenizer's file cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        tool = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the library raises bare exceptions
        raise InputError(f"{tokenizer} is not a tokenizer, or is damaged: {error}. Copy it again.") from None
    ids, mask = np.zeros((len(prompts), LENGTH), np.int32), np.zeros((len(prompts), LENGTH), bool)
    tool.no_padding()
    for row, prompt in enumerate(map(clean, prompts)):
        tool.no_truncation()
        found = len(tool.encode(prompt).ids)
        tool.enable_truncation(LENGTH)
        tokens = tool.encode(prompt)
        if found > LENGTH:
            read = prompt[: max(end for _, end in tokens.offsets)]
            print(
                f"The prompt has {found} tokens; only the first {LENGTH} are read, to ...{read[-40:]!r}.",
                file=sys.stderr,
            )
        ids[row, : len(tokens.ids)], mask[row, : len(tokens.ids)] = tokens.ids, True
    return Tokens(ids, mask)


def embed(
    prompts: Sequence[str],
    weights: str | os.PathLike,
    *,
    dtype: str = "bfloat16",
    cache: str | os.PathLike | None = None,
) -> np.ndarray:
    """Embeddings [P, LENGTH, D] float32 of prompts, zeros past the end of each.

    Embeddings of earlier prompts are read from the cache folder. For new prompts the text encoder is loaded
    onto the device, embeds one prompt after the other and is freed again.

    Args:
      prompts: in any language; an empty one is the end-of-text token alone.
      weights: of the text encoder, in any layout of `stp_jax.weights`.
      dtype: of the computation.
      cache: folder; default: stp_jax/text in the user's cache folder.

    Raises:
      InputError: the weights or their tokenizer are missing or damaged, or do not belong together; the extra
        `text` is not installed.
    """
    folder = Path(cache) if cache else cache_folder("text")
    tokens = tokenize(prompts, find_tokenizer(weights))
    identity = _identity(Path(weights))
    files = [folder / f"{_digest(ids, mask, identity, dtype)}.npz" for ids, mask in zip(*tokens, strict=True)]
    cached = {file: _read_cached(file) for file in dict.fromkeys(files)}
    found = {file: embedding for file, embedding in cached.items() if embedding is not None}
    missing = [file for file in cached if file not in found]
    if missing:
        encoder = Encoder(weights, dtype)
        if tokens.ids.max() >= encoder.vocab:
            raise InputError(
                f"{find_tokenizer(weights)} does not belong to the text encoder {weights}, which knows "
                f"{encoder.vocab} tokens: it gives token {tokens.ids.max()}."
            )
        for file in missing:
            row = files.index(file)
            embedding = encoder(tokens.ids[row : row + 1], tokens.mask[row : row + 1])[0]
            found[file] = embedding[: tokens.mask[row].sum()]
            _write_cached(file, found[file])
    out = np.zeros((len(files), LENGTH, next(iter(found.values())).shape[-1]), np.float32)
    for row, file in enumerate(files):
        out[row, : len(found[file])] = found[file]
    return out


@functools.lru_cache(maxsize=2)
def _compiled(graph: Any) -> Any:
    import jax
    from flax import nnx

    return jax.jit(lambda state, ids, mask: nnx.merge(graph, state)(ids, mask))


class Encoder:
    """A text encoder on the device, for as long as this object lives."""

    def __init__(self, weights: str | os.PathLike, dtype: str):
        import dataclasses

        import jax

        from stp_jax.devices.sharding import make_mesh
        from stp_jax.weights import reading, recognition

        files = recognition.recognise(weights, "text_encoder")
        files = dataclasses.replace(files, config=dataclasses.replace(files.config, dtype=dtype))
        self.vocab = files.config.vocab
        graph, self._state = reading.load(files, make_mesh(devices=jax.devices()[:1]), dtype)
        self._run = _compiled(graph)

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Embeddings [P, N, D] float32 of `Tokens`; those past a prompt's end are meaningless."""
        return np.asarray(self._run(self._state, ids, mask))


def _identity(weights: Path) -> str:
    """A text that changes when the weights do: paths, sizes and times, as the files are too large to read."""
    files = sorted(file for file in weights.iterdir() if file.is_file()) if weights.is_dir() else [weights]
    return "\n".join(f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)


def _digest(ids: np.ndarray, mask: np.ndarray, identity: str, dtype: str) -> str:
    return hashlib.sha256(ids.tobytes() + mask.tobytes() + f"{identity}\n{dtype}".encode()).hexdigest()[:32]


def _read_cached(file: Path) -> np.ndarray | None:
    if not file.exists():
        return None
    try:
        return load_arrays(file, names=["embedding"], most=None)[0]["embedding"]
    except (InputError, KeyError):
        print(f"{file} cannot be read, or is damaged, and is computed again.", file=sys.stderr)
        return None


def _write_cached(file: Path, embedding: np.ndarray) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as partial:
            np.savez(partial, embedding=embedding)
    except OSError as error:
        reason = f"{file.parent}: {error.strerror or error}"
        print(f"The prompt's embedding is not kept for the next run ({reason}).", file=sys.stderr)


def read_embeddings(path: str | os.PathLike, dim: int) -> np.ndarray:
    """Embeddings [P, LENGTH, dim] float32 that this module's command wrote.

    Raises:
      InputError: the file is missing, damaged, or of another text encoder.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of embeddings. `python -m stp_jax.text` writes one.")
    arrays = load_arrays(path, names=["embeddings"], most=None)[0]
    if "embeddings" not in arrays:
        raise InputError(f"{path} holds no embeddings of `python -m stp_jax.text`.")
    embeddings = arrays["embeddings"]
    if embeddings.ndim != 3 or embeddings.shape[2] != dim:
        raise InputError(
            f"{path}: embeddings of shape {list(embeddings.shape)}; the model takes [prompts, tokens, {dim}]."
        )
    if embeddings.dtype.kind != "f" or not np.isfinite(embeddings).all():
        raise InputError(f"{path} is damaged: it has embeddings that are not finite numbers. Write it again.")
    return embeddings


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stp_jax.text", description=__doc__)
    add = parser.add_argument
    add("--weights", required=True, help="text encoder, or a folder that holds one")
    add("--prompt", required=True, action="append", help="may be given several times; may be empty")
    add("--negative", action="store_true", help="also embed Wan2.1's negative prompt, as the last one")
    add("--out", required=True, metavar="FILE.npz", help="a new file")
    flags = parser.parse_args(arguments)
    out = Path(flags.out)
    if out.suffix != ".npz" or out.exists() or not out.parent.is_dir():
        raise InputError(f"--out {out}: give a new file that ends in .npz, in a folder that exists.")

    with starting():  # JAX
        from stp_jax.weights import recognition

    prompts = [*flags.prompt, *([NEGATIVE_PROMPT] if flags.negative else [])]
    encoder = recognition.recognise(flags.weights, "text_encoder")
    recognition.print_remarks(encoder)
    embeddings = embed(prompts, encoder.path)
    with replace_file(out) as partial:
        np.savez(partial, embeddings=embeddings)
    print(f"{out}: {len(embeddings)} embeddings of {embeddings.shape[1]} x {embeddings.shape[2]}")


if __name__ == "__main__":
    main()
