"""Tiles against float64 numpy that blends cell by cell, and the VAE's tiles against each tile on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stp_jax.errors import InputError
from stp_jax.models.vae import VAE
from stp_jax.official.tiles import decode_tiled, encode_tiled, tiled
from tests.models.test_vae import SMALL, jitted, random_video, randomised


def starts(length, size, step):
    """Of the tiles: at multiples of the step, until one reaches the end."""
    found = [0]
    while found[-1] + size < length:
        found.append(found[-1] + step)
    return found


def axis_weight(cell, start, size, length, overlap):
    """Of one cell of the result in a tile of one axis; all in cells of the result."""
    weight = 1.0
    if start > 0 and cell - start < overlap:
        weight = (cell - start + 1) / overlap
    if start + size < length and start + size - cell <= overlap:
        weight = (start + size - cell) / overlap
    return weight


def reference(function, x, tile, stride, scale):
    """The blend, cell by cell; `scale` is what the function does to height and width."""
    height, width = (int(side * scale) for side in x.shape[2:4])
    total = weights = 0
    for top in starts(x.shape[2], tile[0], stride[0]):
        for left in starts(x.shape[3], tile[1], stride[1]):
            y = np.asarray(function(x[:, :, top : top + tile[0], left : left + tile[1]]), np.float64)
            at = int(top * scale), int(left * scale)
            value = np.zeros((*y.shape[:2], height, width, y.shape[-1]))
            mask = np.zeros((height, width))
            for row, column in np.ndindex(y.shape[2:4]):
                cell = at[0] + row, at[1] + column
                value[:, :, *cell] = y[:, :, row, column]
                mask[cell] = min(
                    axis_weight(cell[i], at[i], int(tile[i] * scale), (height, width)[i],
                                int((tile[i] - stride[i]) * scale))
                    for i in range(2)
                )  # fmt: skip
            total, weights = total + value * mask[:, :, None], weights + mask
    return total / weights[:, :, None]


def local(x):
    """Depends on where in its tile a cell is, and doubles the size; of numpy's arrays and of JAX's."""
    rows, columns = (np.arange(length, dtype=np.float32) for length in x.shape[2:4])
    y = x * (1 + rows[:, None, None]) + 3 * columns[:, None]
    return y.repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize(
    ("size", "tile", "stride"),
    [
        ((12, 13), (4, 6), (2, 3)),  # as the official inference: overlaps of a half
        ((11, 9), (5, 4), (3, 3)),  # smaller tiles at both far edges
        ((7, 10), (8, 4), (4, 4)),  # one row of tiles; no overlap
        ((9, 9), (3, 3), (1, 2)),  # ramps from both sides meet
        ((3, 4), (30, 52), (15, 26)),  # one tile
    ],
)
def test_blend_equals_the_reference(size, tile, stride):
    x = np.random.default_rng(0).standard_normal((2, 3, *size, 2)).astype(np.float32)
    y = jax.jit(lambda x: tiled(local, x, tile, stride, grow=2))(x)
    np.testing.assert_allclose(y, reference(local, x, tile, stride, 2), rtol=2e-6, atol=2e-6)


def test_official_tiles_of_a_full_picture_are_nine_of_one_shape():
    shapes = []

    def function(x):
        shapes.append(x.shape)
        return x

    x = jnp.ones((1, 1, 60, 104, 1))
    np.testing.assert_allclose(tiled(function, x, (30, 52), (15, 26)), x, rtol=1e-6)
    assert set(shapes) == {(1, 1, 30, 52, 1)}
    assert len(starts(60, 30, 15)) * len(starts(104, 52, 26)) == 9


@pytest.fixture(scope="module")
def vae():
    return randomised(lambda: VAE(SMALL, rngs=nnx.Rngs(0)))


def run(vae, function, x):
    graph, state = nnx.split(vae)
    return np.asarray(
        jax.jit(lambda state, x: function(nnx.merge(graph, state), x))(state, jnp.asarray(x, jnp.float32))
    )


@pytest.mark.parametrize("chunk", [None, 1])
def test_encoding_and_decoding_in_tiles_equals_the_blend_of_single_tiles(vae, chunk):
    cell = SMALL.spatial_stride
    video = random_video(5, height=3 * cell, width=5 * cell)
    tiles = {"tile": (2, 3), "stride": (1, 2)}
    latents = run(vae, lambda vae, x: encode_tiled(vae, x, chunk=chunk, **tiles), video)
    assert latents.shape == (1, 3, 3, 5, 3)
    expected = reference(jitted(vae, "encode"), video, (2 * cell, 3 * cell), (cell, 2 * cell), 1 / cell)
    np.testing.assert_allclose(latents, expected, atol=2e-5)

    z = vae.denormalise(jnp.asarray(latents))
    decoded = run(vae, lambda vae, x: decode_tiled(vae, x, chunk=chunk, **tiles), latents)
    raw = reference(jitted(vae, "decode_raw"), np.asarray(z), (2, 3), (1, 2), cell)
    assert np.abs(raw).max() > 1  # clamped after the blend, not before
    np.testing.assert_allclose(decoded, np.clip(raw, -1, 1), atol=2e-5)


def test_one_tile_over_everything_changes_nothing(vae):
    video = random_video(5)
    latents = jitted(vae, "encode")(video)
    np.testing.assert_allclose(run(vae, encode_tiled, video), latents, atol=2e-5)
    np.testing.assert_allclose(run(vae, decode_tiled, latents), jitted(vae, "decode")(latents), atol=2e-5)


def test_tiles_that_leave_gaps_are_refused(vae):
    with pytest.raises(InputError, match="stride <= tile"):
        encode_tiled(vae, jnp.zeros((1, 1, 32, 32, 3)), tile=(2, 2), stride=(3, 2))
