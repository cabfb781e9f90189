"""HDR and wide gamut to the SDR of BT.709: transfer functions, primaries and the tone curve, in numpy.

Light is linear; 1 is the white of SDR. Sources of the formulas are named in the functions.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

#: nit of HDR's reference white (BT.2408), which becomes the white of SDR
REFERENCE_WHITE = 203.0
#: share of the peak of an HLG display that becomes the white of SDR: 265 of 1,000 nit. So reference white, a
#: signal of 75 % or 203 nit (BT.2408), becomes 0.77 and is below the knee
HLG_WHITE = 0.2647
#: SDR light up to which the tone curve changes nothing: 91 % of the signal; highlights get the rest
KNEE = 0.8

#: x, y of red, green and blue; all have the white of D65
PRIMARIES = {
    "BT.709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),  # ITU-R BT.709
    "BT.2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # ITU-R BT.2020, BT.2100
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # SMPTE EG 432-1
}
_D65 = (0.3127, 0.3290)
_BLOCK = 1 << 16  # pixels at a time: these stay in the cache of a CPU


def pq_light(signal: np.ndarray) -> np.ndarray:
    """Light of a PQ signal 0..1: the EOTF of SMPTE ST 2084 and ITU-R BT.2100, up to 10,000 nit."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    nit = 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return nit / REFERENCE_WHITE


def hlg_light(signal: np.ndarray) -> np.ndarray:
    """Light of an HLG signal 0..1: the inverse OETF of ITU-R BT.2100, then its system gamma of 1.2.

    The gamma is that of a display of 1,000 nit. It is applied to each component, as SDR displays apply
    theirs, so that colours are as saturated as in SDR; BT.2100 applies it to the luminance.
    """
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return scene**1.2 / HLG_WHITE


def sdr_light(signal: np.ndarray) -> np.ndarray:
    """Light of an SDR signal 0..1 on a display of ITU-R BT.1886: gamma 2.4, as in ITU-R BT.2087."""
    return signal**2.4


def roll_off(light: np.ndarray, peak: float) -> np.ndarray:
    """The tone curve: light up to `KNEE` stays, `peak` becomes 1, smoothly with a continuous slope between.

    Above the knee it is Reinhard's curve x (1 + x / p^2) / (1 + x) with white point p ("Photographic Tone
    Reproduction for Digital Images", 2002, equation 4), x and p counted from the knee.
    """
    span = 1 - KNEE
    x, white = np.maximum(light - KNEE, 0) / span, (peak - KNEE) / span
    return np.minimum(light, KNEE) + span * x * (1 + x / white**2) / (1 + x)


@functools.cache
def to_bt709(primaries: str) -> np.ndarray:
    """float64 [3, 3]: linear RGB of `primaries` to that of BT.709 (SMPTE RP 177; the matrix of BT.2087)."""
    return np.linalg.inv(_to_xyz(PRIMARIES["BT.709"])) @ _to_xyz(PRIMARIES[primaries])


def linear_to_bt709(primaries: tuple[tuple[float, float], ...], white: tuple[float, float]) -> np.ndarray:
    """float64 [3, 3]: linear RGB of these primaries (x, y) and white to that of BT.709.

    The white is adapted to D65 by the linear Bradford transform, as in
    http://www.brucelindbloom.com/index.html?Eqn_ChromAdapt.html.
    """
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    before, after = (bradford @ _xyz(xy) for xy in (white, _D65))
    adapt = np.linalg.inv(bradford) @ np.diag(after / before) @ bradford
    return np.linalg.inv(_to_xyz(PRIMARIES["BT.709"])) @ adapt @ _to_xyz(primaries, white)


def _xyz(xy: tuple[float, float]) -> np.ndarray:
    """X, Y, Z of a colour of luminance 1."""
    x, y = xy
    return np.array([x / y, 1, (1 - x - y) / y])


def _to_xyz(primaries: tuple[tuple[float, float], ...], white: tuple[float, float] = _D65) -> np.ndarray:
    columns = np.array([_xyz(xy) for xy in (*primaries, white)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


_LIGHT: dict[str, Callable[[np.ndarray], np.ndarray]] = {"PQ": pq_light, "HLG": hlg_light, "SDR": sdr_light}


@functools.cache
def _tables(transfer: str) -> tuple[np.ndarray, float, np.ndarray]:
    """Light of 16-bit signals; its peak; 8-bit pixels by 65535 sqrt(light / peak)."""
    light = _LIGHT[transfer](np.linspace(0, 1, 1 << 16))
    peak = float(light[-1])
    shown = np.linspace(0, 1, 1 << 16) ** 2 * peak
    if transfer != "SDR":
        shown = roll_off(shown, peak)
    pixels = np.round(255 * np.clip(shown, 0, 1) ** (1 / 2.4)).astype(np.uint8)
    return light.astype(np.float32), peak, pixels


def to_sdr(
    signal: Callable[[slice], np.ndarray], height: int, width: int, *, transfer: str, primaries: str
) -> np.ndarray:
    """Pixels of SDR BT.709, uint8 [H, W, 3].

    Args:
      signal: gives rows of non-linear RGB, float32 [3, rows * W]; values outside 0..1 are clipped.
      transfer: "PQ", "HLG" or "SDR".
      primaries: a name of `PRIMARIES`.
    """
    table, peak, pixels = _tables(transfer)
    matrix = (to_bt709(primaries) / peak).astype(np.float32)
    out = np.empty((height, width, 3), np.uint8)
    step = max(1, _BLOCK // width)

    def convert(top: int) -> None:
        rows = slice(top, min(top + step, height))
        light = matrix @ table.take(_index(signal(rows)))
        np.sqrt(np.maximum(light, 0, out=light), out=light)
        out[rows] = pixels.take(_index(light)).T.reshape(out[rows].shape)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets others run meanwhile
        list(pool.map(convert, range(0, height, step)))
    return out


def _index(values: np.ndarray) -> np.ndarray:
    """0..1 to 0..65535; changes `values`."""
    np.clip(values, 0, 1, out=values)
    values *= 65535
    values += 0.5
    return values.astype(np.uint16)
