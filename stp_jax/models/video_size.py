"""Which sizes of videos have whole latents; without JAX, so that a mistake is found at once."""

from __future__ import annotations

from stp_jax.errors import InputError


def check_video_size(frames: int, height: int, width: int, *, frame_stride: int, cell: int) -> None:
    """Refuses videos that have no whole latents.

    Args:
      frame_stride: video frames per latent frame.
      cell: side in pixels of what must be whole: a latent cell, or a token of several.

    Raises:
      InputError: frames are not 4n + 1, or height and width are not multiples of `cell` (for a stride of 4).
    """
    if frames < 1 or (frames - 1) % frame_stride:
        below = max(frames - 1, 0) // frame_stride * frame_stride + 1
        raise InputError(
            f"{frames} frames: the model takes {frame_stride}n + 1, for instance {below} or "
            f"{below + frame_stride}."
        )
    if min(height, width) < cell or height % cell or width % cell:
        near = " x ".join(str(max(cell, round(side / cell) * cell)) for side in (width, height))
        raise InputError(
            f"{width} x {height} pixels: the model takes multiples of {cell}, for instance {near}."
        )
