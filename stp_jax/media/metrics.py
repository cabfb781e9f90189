"""PSNR and SSIM of videos, uint8 RGB `[F, H, W, 3]`."""

from __future__ import annotations

import functools

import numpy as np

_WINDOW = 7
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(video: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB from the mean squared error of the whole video; infinite where the two are equal."""
    return psnr_of_error(np.mean(np.square(video.astype(np.float64) - reference)))


def psnr_of_error(error: float | np.floating) -> float:
    """PSNR in dB of a mean squared error of 8-bit values; infinite where it is zero."""
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def psnr_frames(video: np.ndarray, reference: np.ndarray) -> float:
    """The mean over frames of each frame's PSNR in dB; infinite where one frame is equal.

    The official script of the Cam x Time data set averages in this way (SpaceTimePilot's
    eval/compute_metrics_camxtime.py). It is never below `psnr`, and easy frames dominate it.
    """
    return float(np.mean([psnr(*frames) for frames in zip(video, reference, strict=True)]))


def ssim(video: np.ndarray, reference: np.ndarray) -> float:
    """Mean structural similarity over frames, channels and all 7 x 7 windows that lie inside the picture.

    Uniform windows, sample covariance, K1 = 0.01, K2 = 0.03: `skimage.metrics.structural_similarity` with its
    defaults. Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
    """
    if min(video.shape[1:3]) < _WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {_WINDOW} x {_WINDOW}, not {video.shape[1:3]}")
    x, y = video.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    var_x = unbiased * (_local_mean(x * x) - mean_x**2)
    var_y = unbiased * (_local_mean(y * y) - mean_y**2)
    covariance = unbiased * (_local_mean(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return float(np.mean(luminance * structure))


def _local_mean(video: np.ndarray) -> np.ndarray:
    rows, columns = video.shape[1] - _WINDOW + 1, video.shape[2] - _WINDOW + 1
    video = functools.reduce(np.add, (video[:, i : i + rows] for i in range(_WINDOW)))
    return functools.reduce(np.add, (video[:, :, i : i + columns] for i in range(_WINDOW))) / _WINDOW**2
