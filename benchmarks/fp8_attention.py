"""Attention and matrix products in 8 bits beside bfloat16, on an NVIDIA GPU of Hopper's generation or later.

    python benchmarks/fp8_attention.py --out fp8.json      # about 90 s with compilation
    python benchmarks/fp8_attention.py --small             # on any machine: checks the script itself

Attention: the self-attention of the official size, 12 heads of 128 over 65,520 tokens. Times are medians of 5
after a first run, and include scales and casts unless a row says otherwise. Errors are those of 512 queries,
the norm of the difference from float32 as a share of the norm of the result: on normal noise, and on noise
where keys and values have large offsets in a few channels, and a few channels of queries and keys are wide.
Products: those of a block, 65,536 rows. A case that fails prints its reason, and the others go on.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import jax
    import jax.numpy as jnp

    from stp_jax.command_line import Parser, count
    from stp_jax.models import fp8_attention
    from stp_jax.models.fp8_attention import E4M3, LARGEST, WEIGHTS_SCALE

QUERIES = 512  # of which errors are measured
REPEATS = 5
ROWS: list[dict[str, Any]] = []


def draw(tokens: int, heads: int, width: int, kind: str) -> tuple[jax.Array, ...]:
    """Queries, keys, values `[1, N, heads, width]` in bfloat16."""

    @jax.jit
    def make() -> tuple[jax.Array, ...]:
        q, k, v = (
            jax.random.normal(jax.random.key(i), (1, tokens, heads, width), jnp.float32) for i in range(3)
        )
        if kind == "offsets":
            wide = jnp.where(jnp.arange(width) % 32 == 5, 4.0, 1.0)
            offset = jnp.where(jnp.arange(width) % 16 == 3, 12.0, 0.0)
            sign = jnp.where(jnp.arange(heads) % 2 == 0, 1.0, -1.0)[:, None]
            # Wide channels of queries, offset ones of keys: what rotary models show.
            q, k, v = 0.7 * q * wide, 0.7 * k * wide + sign * offset, v + sign * offset / 4
        return tuple(x.astype(jnp.bfloat16) for x in (q, k, v))

    return make()


@jax.jit
def exact(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of the first queries in float32, a head at a time."""

    def head(parts: tuple[jax.Array, ...]) -> jax.Array:
        q, k, v = (x.astype(jnp.float32) for x in parts)  # [N, width]
        weights = jax.nn.softmax(jnp.matmul(q, k.T, precision="highest") * q.shape[-1] ** -0.5, -1)
        return jnp.matmul(weights, v, precision="highest")

    y = jax.lax.map(head, tuple(jnp.moveaxis(x[0], 1, 0) for x in (q[:, :QUERIES], k, v)))
    return jnp.moveaxis(y, 0, 1)[None]


@jax.jit
def relative_error(y: jax.Array, true: jax.Array) -> jax.Array:
    y, true = y[:, : true.shape[1]].astype(jnp.float32), true.astype(jnp.float32)
    return jnp.linalg.norm((y - true).ravel()) / jnp.linalg.norm(true.ravel())


def bfloat16(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    if jax.default_backend() == "gpu":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return jax.nn.dot_product_attention(q, k, v)


def to_fp8(x: jax.Array, scale: jax.Array | float) -> jax.Array:
    return jnp.clip(x.astype(jnp.float32) * scale, -LARGEST, LARGEST).astype(E4M3)


def cudnn_fp8(q: jax.Array, k: jax.Array, v: jax.Array, scales: tuple[Any, ...], out_scale: Any) -> jax.Array:
    """cuDNN's kernel for e4m3 arrays, which are multiplied by `scales`; its output, by `out_scale`."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    one = jnp.ones((1, 1, 1, 1), jnp.float32)
    params: Any = dict.fromkeys(cudnn.fp8_params_keys, one)
    for name, scale in zip("qkv", scales, strict=True):
        params[f"descale_{name}"] = one / scale
    params |= {
        "scale_s": one * WEIGHTS_SCALE,
        "descale_s": one / WEIGHTS_SCALE,
        "scale_o": one * out_scale,
    }
    return cudnn.dot_product_attention(q, k, v, fp8_params=params, scale=q.shape[-1] ** -0.5, use_fp8=True)[0]


def cudnn_fp8_wide_output(q: jax.Array, k: jax.Array, v: jax.Array, scales: tuple[Any, ...]) -> jax.Array:
    """The same kernel with its output in bfloat16, which jax's function does not offer."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir

    b, n, heads, width = q.shape
    with mlir.make_ir_context():
        config = cudnn.create_dot_product_attention_fp8_backend_config(
            b, heads, n, k.shape[1], ir.BF16Type.get(), width**-0.5, cudnn.MaskType.NO_MASK, 0, is_bwd=False
        )
    one = jnp.ones((1, 1, 1, 1), jnp.float32)
    call = jax.ffi.ffi_call(
        "__cudnn$fmhaSoftmaxF8",
        (
            jax.ShapeDtypeStruct((b, heads, n, width), jnp.bfloat16),
            jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32),
            jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32),
            jax.ShapeDtypeStruct((0,), jnp.uint8),
        ),
        output_layouts=((0, 2, 1, 3), (0, 1, 2, 3), (0, 1, 2, 3), (0,)),
        custom_call_api_version=2,
        legacy_backend_config=config,
    )
    descale = [one / scale for scale in scales]
    return call(q, k, v, *descale, one / WEIGHTS_SCALE, one * WEIGHTS_SCALE, one)[0].swapaxes(1, 2)


def power_of_two(amax: jax.Array, top: float = 256.0) -> jax.Array:
    """The largest power of two that keeps values up to `amax` at or below `top`."""
    return jnp.exp2(jnp.floor(jnp.log2(top / jnp.maximum(amax, 1e-12))))


def amax(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x.astype(jnp.float32)))


def fp8(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    fixed: bool = False,
    keys: bool = False,
    values: bool = False,
    multiple: int = 1,
    wide_output: bool = False,
    only: str = "",
) -> Any:
    """Attention in 8 bits.

    Args:
      fixed: scales of 1; else from the largest of each tensor.
      keys: whether the mean over the tokens is subtracted from the keys.
      values: the same from the values; it is added to the output.
      multiple: keys and values are padded to a multiple of this; padding is a zero key and a zero value.
      wide_output: bfloat16 out of the kernel.
      only: `casts`: what precedes the kernel.
    """
    tokens, mean = q.shape[1], jnp.zeros((), jnp.float32)
    if keys:
        k = k.astype(jnp.float32) - jnp.mean(k, 1, keepdims=True, dtype=jnp.float32)
    if values:
        mean = jnp.mean(v, 1, keepdims=True, dtype=jnp.float32)
        v = v.astype(jnp.float32) - mean
    given = tuple(jnp.float32(1) if fixed else power_of_two(amax(x)) for x in (q, k, v))
    out_scale = 64.0 if fixed else given[2]
    small = [to_fp8(x, scale) for x, scale in zip((q, k, v), given, strict=True)]
    if multiple > 1:
        small = [jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0))) for x in small]
    if only == "casts":
        return tuple(small)
    if wide_output:
        y = cudnn_fp8_wide_output(small[0], small[1], small[2], given).astype(jnp.float32)
    else:
        y = cudnn_fp8(small[0], small[1], small[2], given, out_scale).astype(jnp.float32) / out_scale
    return (y[:, :tokens] + mean).astype(q.dtype)


def by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """One call of the kernel for each head, each with its own scales."""
    each = zip(*(jnp.split(x, x.shape[2], 2) for x in (q, k, v)), strict=True)
    return jnp.concatenate([fp8(*one, keys=True, values=True) for one in each], 2)


def seconds(function: Callable, *inputs: jax.Array, repeats: int = REPEATS) -> tuple[float, Any]:
    """Median time after a first run, and the result."""
    y = jax.block_until_ready(function(*inputs))
    measured = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        measured.append(time.perf_counter() - begun)
    return statistics.median(measured), y


class Cases:
    """Runs cases one after the other while there is time, and keeps their figures."""

    def __init__(self, limit: float, report: dict[str, Any], out: Path | None):
        self.begun, self.limit, self.report, self.out = time.perf_counter(), limit, report, out

    def run(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        spent = time.perf_counter() - self.begun
        if spent > self.limit:
            row: dict[str, Any] = {"case": name, "skipped": f"{spent:.0f} s have passed"}
        else:
            try:
                row = {"case": name, **measure()}
            except Exception as error:  # noqa: BLE001  one failing case must not end the others
                lines = [line for line in str(error).splitlines() if line.strip()] or [""]
                row = {"case": name, "error": f"{type(error).__name__}: {lines[0][:300]}"}
        row["total_seconds"] = round(time.perf_counter() - self.begun - spent, 1)
        ROWS.append(row)
        if self.out:  # after every case, as one of them may end the process
            self.out.write_text(json.dumps(self.report, indent=1) + "\n")
        shown = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()]
        print(f"| {' | '.join(shown)} |", flush=True)


def attention_cases(cases: Cases, tokens: int, heads: int, width: int) -> None:
    kinds = ("noise", "offsets")
    data = {kind: draw(tokens, heads, width, kind) for kind in kinds}
    true = {kind: exact(*data[kind]) for kind in kinds}
    tflop = 4 * tokens**2 * heads * width / 1e12

    def measured(function: Callable, has_error: bool = True) -> dict[str, Any]:
        compiled = jax.jit(lambda q, k, v: function(q, k, v))
        took, y = seconds(compiled, *data["noise"])
        row = {"ms": 1e3 * took, "TFLOP/s": tflop / took}
        if has_error:
            row["error, noise"] = float(relative_error(y, true["noise"]))
            row["error, offsets"] = float(relative_error(compiled(*data["offsets"]), true["offsets"]))
        return row

    print("\n| attention | ms | TFLOP/s | error, noise | error, offsets | seconds with compilation |")
    print("|---|---|---|---|---|---|")
    smooth: dict[str, Any] = {"keys": True, "values": True}
    variants: dict[str, tuple[Callable, bool]] = {
        "bfloat16": (bfloat16, True),
        "fp8, scales 1, 1, 1, output 64": (functools.partial(fp8, fixed=True), True),
        "fp8, scales from data": (fp8, True),
        "fp8, keys smoothed": (functools.partial(fp8, keys=True), True),
        "fp8, keys and values smoothed": (functools.partial(fp8, **smooth), True),
        "the same, padded to 128 tokens": (functools.partial(fp8, **smooth, multiple=128), True),
        "as the model computes it": (functools.partial(fp8_attention.attention, mode="fp8"), True),
        "casts alone": (functools.partial(fp8, **smooth, only="casts"), False),
    }
    for name, (function, has_error) in variants.items():
        cases.run(name, functools.partial(measured, function, has_error))

    def kernel_alone() -> dict[str, Any]:
        inputs = jax.jit(functools.partial(fp8, **smooth, only="casts"))(*data["noise"])
        took, _ = seconds(jax.jit(lambda *x: cudnn_fp8(x[0], x[1], x[2], (1.0, 1.0, 1.0), 1.0)), *inputs)
        return {"ms": 1e3 * took, "TFLOP/s": tflop / took}

    cases.run("kernel alone", kernel_alone)


def last_cases(cases: Cases, tokens: int, heads: int, width: int) -> None:
    """Cases of less importance, and one that might end the process."""
    data = draw(tokens, heads, width, "noise")
    true = exact(*data)
    tflop = 4 * tokens**2 * heads * width / 1e12

    def measured(function: Callable) -> dict[str, Any]:
        took, y = seconds(jax.jit(lambda q, k, v: function(q, k, v)), *data)
        return {"ms": 1e3 * took, "TFLOP/s": tflop / took, "error, noise": float(relative_error(y, true))}

    print("\n| attention, further | ms | TFLOP/s | error, noise | seconds with compilation |")
    print("|---|---|---|---|---|")
    cases.run("fp8, one call for each head", functools.partial(measured, by_head))
    wide = functools.partial(fp8, keys=True, values=True, wide_output=True)
    cases.run("fp8, output in bfloat16", functools.partial(measured, wide))


def fp8_dot(x: jax.Array, w: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    return jax.lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=dtype)


def scaled_product(x: jax.Array, w: jax.Array, scale_w: jax.Array, scale_x: Any = None) -> jax.Array:
    """`x @ w` for `w` in e4m3, multiplied by `scale_w`; `x` is cast to e4m3, by default scaled by data."""
    scale_x = power_of_two(amax(x)) if scale_x is None else scale_x
    return (fp8_dot(to_fp8(x, scale_x), w) / (scale_x * scale_w)).astype(x.dtype)


def by_bfloat16(x: jax.Array, w: jax.Array, scale_w: jax.Array) -> jax.Array:
    """The same as a product of bfloat16, a pattern that XLA turns into one of e4m3."""
    scale_x = power_of_two(amax(x))
    small = (to_fp8(x, scale_x), scale_x), (w, scale_w)
    wide, weights = (a.astype(x.dtype) * jnp.asarray(1 / s, x.dtype) for a, s in small)
    return wide @ weights


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.jit(lambda: jax.random.normal(jax.random.key(seed), shape).astype(jnp.bfloat16))()


def kernels_of(function: Callable, *inputs: jax.Array) -> tuple[Callable, str]:
    compiled = jax.jit(function).lower(*inputs).compile()
    text = compiled.as_text() or ""
    found = set(
        re.findall(r"__cublas\$(?:lt\$matmul\$f8|lt\$matmul|gemm)|__triton[a-z_]*|__cudnn\$[a-z]+", text)
    )
    return compiled, ", ".join(sorted(found)) or "other"


def product_cases(cases: Cases, rows: int, dim: int, ffn_dim: int) -> None:
    print("\n| product | ms | TFLOP/s | error | kernels | seconds with compilation |")
    print("|---|---|---|---|---|---|")
    for inner, outer in ((dim, ffn_dim), (ffn_dim, dim), (dim, dim)):
        x, w = normal(1, rows, inner), normal(2, inner, outer) * jnp.bfloat16(inner**-0.5)
        scale_w = power_of_two(amax(w))
        w8, tflop = to_fp8(w, scale_w), 2 * rows * inner * outer / 1e12
        true = jnp.matmul(x[:QUERIES].astype(jnp.float32), w.astype(jnp.float32), precision="highest")
        data = (x, w8, scale_w)
        forms: dict[str, tuple[Callable, tuple]] = {
            "bfloat16": (jnp.matmul, (x, w)),
            "fp8, scale from data, direct": (scaled_product, data),
            "fp8, scale from data, by bfloat16": (by_bfloat16, data),
            "fp8, scale of activations fixed, direct": (
                functools.partial(scaled_product, scale_x=16.0),
                data,
            ),
            "fp8, x already cast": (functools.partial(fp8_dot, dtype=jnp.bfloat16), (to_fp8(x, 1.0), w8)),
        }

        def one(function: Callable, inputs: tuple, tflop=tflop, true=true, name: str = "") -> dict[str, Any]:
            compiled, kernels = kernels_of(function, *inputs)
            took, y = seconds(compiled, *inputs)
            wrong = None if "already" in name else float(relative_error(y[None, :QUERIES], true[None]))
            return {"ms": 1e3 * took, "TFLOP/s": tflop / took, "error": wrong, "kernels": kernels}

        for name, (function, inputs) in forms.items():
            label = f"[{rows}, {inner}] x [{inner}, {outer}], {name}"
            cases.run(label, functools.partial(one, function, inputs, name=name))

    net_cases(cases, rows, dim, ffn_dim)


def net_cases(cases: Cases, rows: int, dim: int, ffn_dim: int) -> None:
    """A feed-forward net, GELU and all."""
    x = normal(1, rows, dim)
    w1, w2 = normal(2, dim, ffn_dim) * jnp.bfloat16(dim**-0.5), normal(3, ffn_dim, dim) * jnp.bfloat16(0.01)
    s1, s2 = power_of_two(amax(w1)), power_of_two(amax(w2))

    def net(x: jax.Array, w1: jax.Array, w2: jax.Array, s1: jax.Array, s2: jax.Array, kind: str) -> jax.Array:
        def product(x: jax.Array, w: jax.Array, s: jax.Array) -> jax.Array:
            if kind == "bfloat16":
                return x @ w
            return scaled_product(x, w, s, 16.0 if kind == "fixed" else None)

        hidden = jax.nn.gelu(product(x, w1, s1).astype(jnp.float32)).astype(x.dtype)
        return product(hidden, w2, s2)

    tflop = 4 * rows * dim * ffn_dim / 1e12
    first, exact_1, exact_2 = (a.astype(jnp.float32) for a in (x[:QUERIES], w1, w2))
    true = net(first, exact_1, exact_2, s1, s2, "bfloat16")

    def whole(kind: str) -> dict[str, Any]:
        weights = (w1, w2) if kind == "bfloat16" else (to_fp8(w1, s1), to_fp8(w2, s2))
        compiled, kernels = kernels_of(functools.partial(net, kind=kind), x, *weights, s1, s2)
        took, y = seconds(compiled, x, *weights, s1, s2)
        wrong = float(relative_error(y[None, :QUERIES], true[None]))
        return {"ms": 1e3 * took, "TFLOP/s": tflop / took, "error": wrong, "kernels": kernels}

    for kind in ("bfloat16", "data", "fixed"):
        name = {"data": "fp8, scales from data", "fixed": "fp8, scales of activations fixed"}.get(kind, kind)
        cases.run(f"feed-forward net, {name}", functools.partial(whole, kind))


@exit_on_input_error
def main() -> None:
    parser = Parser(prog="python benchmarks/fp8_attention.py", description=__doc__)
    parser.add_argument("--tokens", type=count, default=65_520, help="default 65520")
    parser.add_argument("--seconds", type=count, default=85, help="no case begins after so long; default 85")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    parser.add_argument("--small", action="store_true", help="small sizes, to check the script anywhere")
    given: argparse.Namespace = parser.parse_args()
    tokens, heads, width = (640, 2, 64) if given.small else (given.tokens, 12, 128)
    device = jax.devices()[0].device_kind
    print(f"{device}, jax {jax.__version__}, {tokens:,} tokens, {heads} heads of {width}")
    reason = fp8_attention.unavailable(128, 65_520)
    if reason:
        print(f"There is no attention in 8 bits, and its cases fail: {reason}.")
    report = {"device": device, "jax": jax.__version__, "tokens": tokens, "rows": ROWS}
    cases = Cases(given.seconds, report, given.out)
    attention_cases(cases, tokens, heads, width)
    product_cases(cases, *((256, 64, 128) if given.small else (65_536, 1536, 8960)))
    last_cases(cases, tokens, heads, width)
    print("\n" + json.dumps(report))


if __name__ == "__main__":
    main()
