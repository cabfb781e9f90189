"""Attention of the 1.3B model on this machine's GPU: is it right, and how fast is it?

    python benchmarks/attention.py            # one GPU, about a minute
    python benchmarks/attention.py --tokens 2048 --backends xla

For every backend: the largest errors of output and of gradients against float64, as shares of the largest
values, on short sequences of noise in bfloat16; then milliseconds at full size, 12 heads of 128 over 65,520
tokens of the video, and over the 512 tokens of a prompt, forward and with the gradient; and the rate that
this makes, 4 (14 with the gradient, which computes the weights again) x queries x keys x width. Last a matrix
product of 8192 x 8192 in bfloat16, to tell one GPU from another. Medians of 5 after a first run.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
from collections.abc import Callable

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from stp_jax.command_line import Parser, count
    from stp_jax.models.attention import BACKENDS, attention, attention_backend

HEADS, WIDTH = 12, 128
PROMPT = 512
# Queries and keys, odd numbers, too; the second pair has as few keys as a prompt has.
SHORT = (((768, 768), (767, 767)), ((16_000, 192), (15_999, 191)))


def draw(seed: int, tokens: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (1, tokens, HEADS, WIDTH), jnp.bfloat16)


def compiled(function: Callable) -> Callable:
    """Traced anew: JAX would take what it has traced of the same function with another backend."""
    return jax.jit(lambda *inputs: function(*inputs))


def with_gradient(q: jax.Array, k: jax.Array, v: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
    """Output, and the gradients of its sum weighted by `weight`."""
    y, backward = jax.vjp(attention, q, k, v)
    return y, *backward(weight)


def exact(*inputs: jax.Array) -> tuple[np.ndarray, ...]:
    """`with_gradient` in float64."""
    q, k, v, weight = (np.asarray(x, np.float64) for x in inputs)
    scale = WIDTH**-0.5
    logits = scale * np.einsum("bqhd,bkhd->bhqk", q, k, optimize=True)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = np.einsum("bqhd,bkhd->bhqk", weight, v, optimize=True)
    ds = scale * p * (dp - (dp * p).sum(-1, keepdims=True))
    return (
        np.einsum("bhqk,bkhd->bqhd", p, v, optimize=True),
        np.einsum("bhqk,bkhd->bqhd", ds, k, optimize=True),
        np.einsum("bhqk,bqhd->bkhd", ds, q, optimize=True),
        np.einsum("bhqk,bqhd->bkhd", p, weight, optimize=True),
    )


def errors(queries: int, keys: int) -> np.ndarray:
    """Of output and gradients: the largest difference from `exact`, as a share of its largest value."""
    inputs = draw(0, queries), draw(1, keys), draw(2, keys), draw(3, queries)
    pairs = zip(compiled(with_gradient)(*inputs), exact(*inputs), strict=True)
    output, *gradients = (
        float(np.abs(np.asarray(y, np.float64) - z).max() / np.abs(z).max()) for y, z in pairs
    )
    return np.array([output, max(gradients)])


def seconds(function: Callable, *inputs: jax.Array) -> float:
    jax.block_until_ready(function(*inputs))
    measured = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        measured.append(time.perf_counter() - begun)
    return statistics.median(measured)


@exit_on_input_error
def main() -> None:
    parser = Parser(prog="python benchmarks/attention.py", description=__doc__)
    parser.add_argument("--tokens", type=count, default=65_520, help="of the video; default 65520")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="default: those of NVIDIA's GPUs")
    given = parser.parse_args()
    backends = given.backends
    if backends is None:
        if jax.default_backend() != "gpu":
            raise InputError("JAX sees no NVIDIA GPU here; name what to measure with --backends.")
        installed = importlib.util.find_spec("tokamax") is not None
        backends = ["cudnn", *(["tokamax"] if installed else [])]
    logging.getLogger("absl").setLevel(
        logging.ERROR
    )  # tokamax tells of every shape that it was not tuned for
    device = jax.devices()[0].device_kind
    print(f"{device}, jax {jax.__version__}, {given.tokens:,} tokens, {HEADS} heads of {WIDTH}, bfloat16\n")
    print("| backend | keys | error | of gradients | forward, ms | TFLOP/s | with gradient, ms | TFLOP/s |")
    print("|---|---|---|---|---|---|---|---|")
    for backend in backends:
        for keys, short in zip((given.tokens, PROMPT), SHORT, strict=True):
            inputs = draw(0, given.tokens), draw(1, keys), draw(2, keys), draw(3, given.tokens)
            flop = 4 * given.tokens * keys * HEADS * WIDTH / 1e12
            with attention_backend(backend):
                wrong, wrong_gradients = np.max([errors(*sizes) for sizes in short], axis=0)
                forward = seconds(compiled(attention), *inputs[:3])
                both = seconds(compiled(with_gradient), *inputs)
            cells = [backend, f"{keys:,}", f"{wrong:.1e}", f"{wrong_gradients:.1e}", f"{1e3 * forward:.2f}"]
            cells += [f"{flop / forward:.0f}", f"{1e3 * both:.2f}", f"{3.5 * flop / both:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    square = jax.random.normal(jax.random.key(0), (8192, 8192), jnp.bfloat16)
    product = seconds(compiled(jnp.matmul), square, square)
    print(f"\n8192 x 8192 product: {1e3 * product:.2f} ms, {2 * 8192**3 / product / 1e12:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
