"""The VAE in tiles, as in the official inference: overlapping tiles of all frames, blended.

Tiles bound memory. The result differs from that of whole pictures, because every tile is padded at its own
border. The official inference works in tiles, so they are needed to match its videos. Chunks of frames
(`VAE`) bound memory, too, and do not change the result: without a video to match they are the better choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from stp_jax.errors import InputError
from stp_jax.models.vae import VAE

Size = tuple[int, int]  # height, width
TILE, STRIDE = (30, 52), (15, 26)  # latent cells, of the official inference


def encode_tiled(
    vae: VAE, video: jax.Array, *, tile: Size = TILE, stride: Size = STRIDE, chunk: int | None = None
) -> jax.Array:
    """Normalised latents [B, F', H', W', z_dim] of a video; other arguments as for `VAE.encode`.

    Tile and stride are in latent cells.
    """
    cell = vae.config.spatial_stride
    tile, stride = (cell * tile[0], cell * tile[1]), (cell * stride[0], cell * stride[1])
    vae.check_video(video.shape)
    return tiled(lambda x: vae.encode(x, chunk=chunk), video, tile, stride, shrink=cell)


def decode_tiled(
    vae: VAE, latents: jax.Array, *, tile: Size = TILE, stride: Size = STRIDE, chunk: int | None = None
) -> jax.Array:
    """Video [B, F, H, W, 3] in [-1, 1], float32, of latents; other arguments as for `VAE.decode`.

    Tile and stride are in latent cells.
    """
    video = tiled(
        lambda z: vae.decode_raw(z, chunk=chunk),
        vae.denormalise(latents),
        tile,
        stride,
        grow=vae.config.spatial_stride,
    )
    return jnp.clip(video, -1, 1)


def tiled(
    function: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    tile: Size,
    stride: Size,
    *,
    grow: int = 1,
    shrink: int = 1,
) -> jax.Array:
    """Applies `function` to overlapping tiles of x and blends what it gives.

    Weights rise linearly over the overlap, from each edge of a tile that is not an edge of the picture; in
    corners the lesser of both axes counts. Tiles at the right and at the bottom may be smaller.

    Args:
      function: [B, F, h, w, C] to [B, F', h * grow / shrink, w * grow / shrink, C'], float32.
      x: [B, F, H, W, C].
      tile, stride: height and width, in cells of x.

    Returns:
      [B, F', H * grow / shrink, W * grow / shrink, C'] float32.

    Raises:
      InputError: tiles that would leave gaps.
    """
    height, width = x.shape[2:4]
    if not all(0 < step <= size for size, step in zip(tile, stride, strict=True)):
        raise InputError(f"tiles of {tile} at a stride of {stride} cells: give 0 < stride <= tile")

    def scaled(cells: int) -> int:
        return cells * grow // shrink

    ramps = [scaled(size - step) for size, step in zip(tile, stride, strict=True)]
    spans = map(_spans, (height, width), tile, stride)
    total = np.zeros((scaled(height), scaled(width)), np.float32)
    by_size: dict[Size, list] = {}  # of the tiles: top, left, weights
    for (top, bottom), (left, right) in itertools.product(*spans):
        rows = _weights(scaled(bottom - top), top > 0, bottom < height, ramps[0])
        columns = _weights(scaled(right - left), left > 0, right < width, ramps[1])
        weights = np.minimum(rows[:, None], columns)
        total[scaled(top) : scaled(bottom), scaled(left) : scaled(right)] += weights
        by_size.setdefault((bottom - top, right - left), []).append((top, left, weights[:, :, None]))

    def shape_at(size: Size) -> tuple[int, ...]:
        return (*x.shape[:2], *size, x.shape[-1])

    first = jax.ShapeDtypeStruct(shape_at(next(iter(by_size))), x.dtype)
    like = jax.eval_shape(function, first)
    blended = jnp.zeros((*like.shape[:2], *total.shape, like.shape[-1]), jnp.float32)
    for size, tiles in by_size.items():  # a loop for each size, so that `function` compiles once for it

        def add(blended: jax.Array, one: tuple, size=size) -> tuple[jax.Array, None]:
            top, left, weights = one
            y = function(jax.lax.dynamic_slice(x, (0, 0, top, left, 0), shape_at(size))) * weights
            at = (0, 0, top * grow // shrink, left * grow // shrink, 0)
            there = jax.lax.dynamic_slice(blended, at, y.shape)
            return jax.lax.dynamic_update_slice(blended, there + y, at), None

        blended, _ = jax.lax.scan(add, blended, tuple(map(np.stack, zip(*tiles, strict=True))))
    return blended / total[:, :, None]


def _spans(length: int, size: int, step: int) -> list[tuple[int, int]]:
    """(start, end) of the tiles along an axis; none starts where the one before has reached the end."""
    starts = range(0, length, step)
    return [
        (start, min(start + size, length)) for start in starts if not start or start - step + size < length
    ]


def _weights(length: int, inner_start: bool, inner_end: bool, ramp: int) -> np.ndarray:
    """Ones, with a ramp 1/n, 2/n, .. inward from each inner edge; where both reach, the later one counts."""
    weights, rising = np.ones(length, np.float32), np.arange(1, ramp + 1, dtype=np.float32) / max(ramp, 1)
    if inner_start:
        weights[:ramp] = rising[:length]
    if inner_end:
        weights[length - ramp :] = rising[::-1]
    return weights
