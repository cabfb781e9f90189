"""EXR: linear values survive FFmpeg, and become sRGB; what would be read wrongly is refused."""

import struct

import numpy as np
import pytest

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.media import decode, light, sources
from tests.media.exr_files import write_exr

# ACEScg: primaries and white of SMPTE-like AP1 and ACES white (TB-2014-004)
AP1 = (0.713, 0.293, 0.165, 0.83, 0.128, 0.044, 0.32168, 0.33767)
# ACEScg to linear BT.709 with Bradford adaptation, as published in many renderers
ACESCG_TO_BT709 = [
    [1.70505, -0.62179, -0.08326],
    [-0.13026, 1.14080, -0.01055],
    [-0.02400, -0.12897, 1.15297],
]


def srgb(x):
    """IEC 61966-2-1, in float64."""
    x = np.clip(np.asarray(x, np.float64), 0, 1)
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def only(path):
    notes = {}
    ((_, picture),) = decode.frames(path, notes=notes)
    return picture(), tuple(notes)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_linear_values_become_srgb(tmp_path, dtype):
    rgb = np.random.default_rng(0).random((3, 20, 30)).astype(dtype) ** 2 * 1.3
    path = write_exr(tmp_path / "a.exr", dict(zip("RGB", rgb.astype(dtype), strict=True)))
    picture, notes = only(path)
    np.testing.assert_allclose(picture, srgb(np.moveaxis(rgb.astype(dtype), 0, -1)), atol=0.501)
    assert notes == ("linear light converted by the sRGB curve, light above 1 is white",)


def test_values_that_are_no_light_are_black_or_white(tmp_path):
    values = np.array([[np.nan, np.inf, -np.inf, -1, 0, 1e30]], np.float32).repeat(4, 0)
    picture, _ = only(write_exr(tmp_path / "a.exr", {"Y": values}))
    np.testing.assert_array_equal(picture[2, :, 1], [0, 255, 0, 0, 0, 255])


def test_alpha_is_multiplied_already_and_is_said(tmp_path):
    alpha = np.linspace(0, 1, 30, dtype=np.float32)[None].repeat(20, 0)
    channels = {"R": alpha * 0.5, "G": alpha * 0.25, "B": alpha * 0, "A": alpha}
    picture, notes = only(write_exr(tmp_path / "a.exr", channels))
    wanted = alpha[..., None] * [0.5, 0.25, 0] + 1 - alpha[..., None]
    np.testing.assert_allclose(picture, srgb(wanted), atol=0.501)
    assert notes[1:] == ("transparent parts are white: alpha is left out",)


def test_primaries_of_the_file_are_converted(tmp_path):
    np.testing.assert_allclose(
        light.linear_to_bt709((AP1[0:2], AP1[2:4], AP1[4:6]), AP1[6:]), ACESCG_TO_BT709, atol=2e-4
    )
    rgb = np.random.default_rng(0).random((3, 20, 30)).astype(np.float32)
    chromaticities = ("chromaticities", struct.pack("<8f", *AP1))
    channels = dict(zip("RGB", rgb, strict=True))
    picture, notes = only(write_exr(tmp_path / "a.exr", channels, chromaticities=chromaticities))
    wanted = np.moveaxis(np.tensordot(np.array(ACESCG_TO_BT709), rgb, 1), 0, -1)
    np.testing.assert_allclose(picture, srgb(wanted), atol=0.6)
    assert "its primaries converted to BT.709" in notes


def test_what_would_be_read_wrongly_is_refused(tmp_path):
    plane = np.zeros((8, 8), np.float32)
    rgb = dict.fromkeys("RGB", plane)
    for name, channels, more, message in (
        ("layers", {"beauty.R": plane, "Z": plane}, {}, "no channels R, G, B or Y, but Z, beauty.R"),
        ("chroma", {"Y": plane, "RY": plane, "BY": plane}, {}, "no channels R, G, B or Y, but BY, RY, Y"),
        ("deep", rgb, {"version": 0x802}, "is a deep EXR"),
        ("dwa", rgb, {"compression": 8}, "a compression that is not read well"),
    ):
        path = write_exr(tmp_path / f"{name}.exr", channels, **more)
        with pytest.raises(InputError, match=rf"{name}\.exr.*{message}"):
            only(path)
    whole = write_exr(tmp_path / "whole.exr", rgb).read_bytes()
    for size in (10, 100, 250, len(whole) - 90):
        (tmp_path / "cut.exr").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.exr"):
            only(tmp_path / "cut.exr")


def test_a_sequence_of_exr_is_a_video(tmp_path):
    for i in range(4):
        write_exr(tmp_path / f"f.{i:04d}.exr", {"Y": np.full((16, 16), 0.2 * i, np.float16)})
    assert sources.times(tmp_path / "f.####.exr")[0] == 4
    frames, _ = media.read_video(tmp_path / "f.%04d.exr")
    np.testing.assert_allclose(frames[:, 8, 8, 0], srgb([0, 0.2, 0.4, 0.6]), atol=0.51)
