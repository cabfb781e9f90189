"""Videos of a preview: laid out in rows, and measured."""

from __future__ import annotations

import numpy as np

from stp_jax.models.vae import to_pixels


def psnr(video: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB of videos `[B, ...]` in [-1, 1]: from each whole video's squared error, averaged over B."""
    error = np.square((np.clip(video, -1, 1) - reference) / 2).reshape(len(video), -1).mean(1)
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-10))))


def rows(videos: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A labelled uint8 video for each row of a picture: all of one example, then all of the next."""
    pixels = {name: np.asarray(to_pixels(videos[name])) for name in names}
    return {f"{name} {i}": pixels[name][i] for i in range(len(pixels[names[0]])) for name in names}
