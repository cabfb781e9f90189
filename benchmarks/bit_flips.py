"""Flips single bits in weights and in checkpoints, and counts what comes of it.

    python benchmarks/bit_flips.py --flips 100          # no GPU needed; about two minutes

Each time one bit of one file is another one: in a copy of the bundled model, written anew by `save_weights`,
and in the latest of two checkpoints. Half of the files are drawn by their size, half with equal chances, so
that the small ones, the JSON among them, are hit, too. Then everything is read. What may come of it is an
error, the checkpoint before (recovered), or the same numbers and settings; anything else is silently
different, and then the command ends with status 1.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from stp_jax.command_line import Parser, count
    from stp_jax.training.checkpoints import Checkpoints
    from stp_jax.training.state import TrainState
    from stp_jax.weights import native, reading, recognition

ERROR, RECOVERED, SAME, DIFFERENT = "an error", "recovered", "the same", "SILENTLY DIFFERENT"
Read = Callable[[Path], Any]


def read_weights(folder: Path) -> Any:
    """Configs, notes and every number of the DiT and the VAE in a folder."""
    found = [recognition.recognise(folder, kind) for kind in ("dit", "vae")]
    notes = native.read_index(folder, "dit")["notes"]
    return [(dataclasses.asdict(one.config), reading.read(one)) for one in found], notes


def write_weights(folder: Path) -> None:
    """The bundled model, as train.py would export it."""
    for kind in ("dit", "vae"):
        index = native.read_index(native.BUNDLED, kind)
        parameters = native.read_weights(native.BUNDLED, kind)
        native.save_weights(folder, kind, parameters, index["config"], dtype=None, notes=index["notes"])


def _state(step: int) -> TrainState:
    draw = np.random.default_rng(step)
    params = {f"layer_{i}.kernel": jnp.asarray(draw.standard_normal((64, 64)), jnp.float32) for i in range(4)}
    moments = {name: array**2 for name, array in params.items()}
    return TrainState(
        jnp.int32(step), params, (moments,), {name: array / 2 for name, array in params.items()}
    )


def write_checkpoints(folder: Path) -> None:
    """Checkpoints of steps 1 and 2."""
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(_state(step), {"step": step, "seconds": 0.5 * step})
        checkpoints.wait()
    checkpoints.close()


def read_checkpoint(folder: Path) -> Any:
    """State and metadata of the latest checkpoint that is whole."""
    checkpoints = Checkpoints(folder, report=lambda line: None)
    try:
        return checkpoints.restore(_state(0)), checkpoints.meta()
    finally:
        checkpoints.close()


def flip(file: Path, draw: random.Random) -> int:
    """Makes one bit another one; returns which."""
    content = bytearray(file.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return bit


def _equal(one: Any, other: Any) -> bool:
    (leaves, form), (others, other_form) = jax.tree.flatten(one), jax.tree.flatten(other)
    return str(form) == str(other_form) and all(map(_equal_leaves, leaves, others))


def _equal_leaves(one: Any, other: Any) -> bool:
    if not hasattr(one, "shape"):
        return type(one) is type(other) and one == other
    return one.dtype == other.dtype and np.asarray(one).tobytes() == np.asarray(other).tobytes()


def outcomes(whole: Path, below: str, read: Read, flips: int, before: Any = None) -> Counter[str]:
    """Counts what comes of flips in the files below a folder of `whole`; each is in a fresh copy.

    Args:
      whole: folder to copy.
      below: the folder inside whose files are hit.
      read: reads everything in a folder.
      flips: their number.
      before: what is read after a recovery.
    """
    expected, counts = read(whole), Counter[str]()
    for number in range(flips):
        draw = random.Random(number)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(shutil.copytree(whole, Path(temporary, "copy")))
            files = sorted(
                file for file in (folder / below).rglob("*") if file.is_file() and file.stat().st_size
            )
            sizes = [file.stat().st_size for file in files]
            file = draw.choices(files, sizes if number % 2 else None)[0]
            bit = flip(file, draw)
            try:
                found = read(folder)
            except InputError:
                counts[ERROR] += 1
                continue
            if _equal(found, expected):
                counts[SAME] += 1
            elif before is not None and _equal(found, before):
                counts[RECOVERED] += 1
            else:
                counts[DIFFERENT] += 1
                print(f"flip {number}, bit {bit} of {file.relative_to(folder)}: {DIFFERENT}")
    return counts


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python benchmarks/bit_flips.py", description=__doc__)
    parser.add_argument("--flips", type=count, default=100, help="in each of the two")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        weights, checkpoints = Path(temporary, "weights"), Path(temporary, "checkpoints")
        write_weights(weights)
        write_checkpoints(checkpoints)
        first = _state(1), {"step": 1, "seconds": 0.5}
        found = {
            "weights": outcomes(weights, ".", read_weights, flags.flips),
            "checkpoints": outcomes(checkpoints, "2", read_checkpoint, flags.flips, first),
        }
    for name, counts in found.items():
        shown = ", ".join(f"{counts[what]} {what}" for what in (ERROR, RECOVERED, SAME, DIFFERENT))
        print(f"{name}: {flags.flips} flips: {shown}")
    sys.exit(any(counts[DIFFERENT] for counts in found.values()))


if __name__ == "__main__":
    main()
