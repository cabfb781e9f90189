"""Attention: every backend and every way to split it gives what float64 gives, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models import attention as attention_module
from stp_jax.models import attention as module
from stp_jax.models.attention import (
    attention,
    attention_backend,
    keep_attention,
    splash_attention,
    tokamax_attention,
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs(batch=2, queries=24, keys=48, heads=12, width=8):
    q, k, v = (draw(batch, n, heads, width, seed=i) for i, n in enumerate((queries, keys, keys)))
    return q, k, v, draw(batch, queries, heads, width, seed=3)


def exact(q, k, v, weight):
    """Attention, and the gradients of its sum weighted by `weight`, in float64."""
    q, k, v, weight = (np.asarray(x, np.float64) for x in (q, k, v, weight))
    scale = q.shape[-1] ** -0.5
    logits = scale * np.einsum("bqhd,bkhd->bhqk", q, k)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    y = np.einsum("bhqk,bkhd->bqhd", p, v)
    dp = np.einsum("bqhd,bkhd->bhqk", weight, v)
    ds = scale * p * (dp - (dp * p).sum(-1, keepdims=True))
    gradients = (
        np.einsum("bhqk,bkhd->bqhd", ds, k),
        np.einsum("bhqk,bqhd->bkhd", ds, q),
        np.einsum("bhqk,bqhd->bkhd", p, weight),
    )
    return y, gradients


def check(function, q, k, v, weight, atol=1e-5):
    expected_y, gradients = exact(q, k, v, weight)
    gradient = jax.grad(lambda *x: jnp.sum(function(*x) * weight), argnums=(0, 1, 2))
    y, found = jax.jit(lambda *x: (function(*x), gradient(*x)))(q, k, v)  # one program: compiled once
    np.testing.assert_allclose(y, expected_y, atol=atol)
    for one, expected in zip(found, gradients, strict=True):
        np.testing.assert_allclose(one, expected, atol=5 * atol)


def test_plain():
    check(attention, *inputs())


def test_long_sequences_block_by_block(monkeypatch):
    monkeypatch.setattr(module, "LOGITS_BYTES", 20_000)  # 4 queries at a time
    check(attention, *inputs())


@pytest.mark.parametrize(("queries", "keys"), [(128, 256), (100, 300), (256, 130)])
def test_splash_kernel_with_and_without_padding(queries, keys):
    arguments = inputs(batch=1, queries=queries, keys=keys, heads=2, width=128)
    check(lambda q, k, v: splash_attention(q, k, v, block=128, interpret=True), *arguments)


@pytest.mark.parametrize(
    ("queries", "keys", "groups", "length"),
    [(24, 6, 1, 24), (7, 7, 1, 8), (96, 6, 16, 6), (102, 6, 17, 6), (97, 6, 16, 8), (1021, 5, 16, 64)],
)
def test_cudnn_gets_even_numbers_and_many_queries_of_few_keys_in_groups(
    monkeypatch, queries, keys, groups, length
):
    seen = []

    def dot_product_attention(q, k, v, *, implementation, **lengths):
        seen.append((q.shape[:2], k.shape[:2]))
        return real(q, k, v, **lengths)

    real = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", dot_product_attention)
    check(module._cudnn, *inputs(queries=queries, keys=keys))
    assert set(seen) == {((2 * groups, length), (2 * groups, keys + keys % 2))}


def test_a_backend_is_chosen_by_name(monkeypatch):
    monkeypatch.setattr(module, "splash_attention", lambda q, k, v: q + 1)
    q, k, v, _ = inputs(width=128)
    with attention_backend("splash"):
        np.testing.assert_array_equal(attention(q, k, v), q + 1)
        small = inputs(width=64)[:3]  # the kernel takes multiples of 128
        np.testing.assert_allclose(attention(*small), exact(*small, small[0])[0], atol=1e-5)
    assert not np.array_equal(attention(q, k, v), q + 1)
    with (
        pytest.raises(ValueError, match="choose one of cudnn, tokamax, splash, xla"),
        attention_backend("ring"),
    ):
        pass


# Where all keys are on every device, heads are not exchanged, so that their number does not matter, and
# nothing changes unless the sequence is split.
@pytest.mark.parametrize(
    ("sizes", "heads", "whole_keys"),
    [
        ({"sequence": 8}, 8, False),  # all-to-all alone
        ({"sequence": 8}, 12, False),  # 2 groups of 4
        ({"sequence": 8}, 3, False),  # gathering alone
        ({"sequence": 8}, 12, True),
        ({"sequence": 4, "tensor": 2}, 12, False),  # 6 heads on each: 2 groups of 2
        ({"sequence": 4, "tensor": 2}, 12, True),
        ({"sequence": 2, "data": 2, "fsdp": 2}, 12, False),
        ({"sequence": 2, "data": 2, "fsdp": 2}, 12, True),
        ({"tensor": 4, "data": 2}, 12, False),
        ({"data": 8}, 12, False),
    ],
    ids=str,
)
def test_split_over_a_mesh(sizes, heads, whole_keys):
    arguments = inputs(batch=4 if sizes.get("data", 1) < 8 else 8, heads=heads)
    with jax.set_mesh(make_mesh(**{"data": 1} | sizes)):
        check(lambda q, k, v: attention(q, k, v, whole_keys=whole_keys), *arguments)


def test_tokamax_takes_the_same_shapes_and_scale():
    pytest.importorskip("tokamax")  # needs Python 3.12; its GPU kernels need a GPU
    q, k, v, weight = inputs()
    check(lambda *x: tokamax_attention(*x, implementation=("xla",)), q, k, v, weight)


def test_an_outer_choice_of_the_backend_counts():
    with attention_backend("splash"), attention_backend("xla"):
        assert attention_module._chosen.get() == "splash"
    with attention_backend(None):
        assert attention_module._chosen.get() is None


# A mesh gathers before any backend attends, so that splash does not need every mesh again.
@pytest.mark.parametrize(
    ("backend", "sizes"),
    [
        ("xla", {}),
        ("xla", {"data": 8}),
        ("xla", {"sequence": 8}),
        ("xla", {"sequence": 2, "tensor": 4}),
        ("splash", {}),
        ("splash", {"sequence": 2, "tensor": 4}),
    ],
    ids=str,
)
def test_padding_behind_the_keys_is_not_attended_to(monkeypatch, sizes, backend):
    interpreted = functools.partial(splash_attention, block=128, interpret=True)
    monkeypatch.setattr(module, "splash_attention", interpreted)

    def with_padding(q, k, v):
        padding = ((0, 0), (0, 48 - 37), (0, 0), (0, 0))
        k, v = (jnp.pad(x, padding, constant_values=np.nan) for x in (k, v))
        with attention_backend(backend):
            return attention(q, k, v, keys=37)

    with jax.set_mesh(make_mesh(**{"data": 1} | sizes, devices=None if sizes else jax.devices()[:1])):
        check(with_padding, *inputs(batch=8, queries=32, keys=37, heads=4, width=128))


def test_a_batch_that_does_not_divide_is_computed_everywhere():
    with jax.set_mesh(make_mesh(data=8)):
        check(attention, *inputs(batch=3))


def test_what_a_mesh_cannot_split_is_refused():
    q, k, v, _ = inputs(queries=30, keys=60)
    with (
        jax.set_mesh(make_mesh(data=1, tensor=8)),
        pytest.raises(InputError, match="tensor is 8: .* 12 heads"),
    ):
        attention(q, k, v)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"sequence": 4, "data": 2}], ids=str)
@pytest.mark.parametrize("keys", [32, 8])
def test_attention_is_not_computed_again_for_its_output_unless_that_is_cheap(sizes, keys):
    """What the policy keeps is no residual that the backward pass computes anew."""
    q, k, v, weight = inputs(batch=8, heads=4, queries=32, keys=keys)

    def loss(x, policy):
        layer = jax.checkpoint(lambda x: jnp.tanh(attention(x, k, v)) * weight, policy=policy)
        return jnp.sum(layer(jnp.sin(x)))

    def products(policy) -> int:
        return str(jax.make_jaxpr(jax.grad(lambda x: loss(x, policy)))(q)).count("dot_general")

    with jax.set_mesh(make_mesh(**{"data": 1} | sizes)):
        again = products(None) - products(keep_attention)
        assert again == (1 if keys == 32 else 0)  # the product with the values
