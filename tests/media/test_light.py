"""HDR and wide gamuts against formulas in float64, written here from the standards."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stp_jax import media
from stp_jax.media import light

# ITU-R BT.2087-0, table of the linear conversion from BT.2020 to BT.709
BT2087 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
# Display P3 to sRGB, as CSS Color 4 gives it by way of XYZ
P3 = np.array([[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09827]])
KR, KB = 0.2627, 0.0593  # BT.2020


def inverse_pq(nit):
    """BT.2100, table 4: the inverse EOTF."""
    y = (nit / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg_oetf(scene):
    """BT.2100, table 5."""
    a, b, c = 0.17883277, 1 - 4 * 0.17883277, 0.5 - 0.17883277 * np.log(4 * 0.17883277)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def hdr_file(path, signal, transfer, primaries, *, full=False):
    """Writes rows of colours, non-linear RGB [N, 3], as YUV of 10 bits (BT.2020): patches of 16 x 16."""
    luma = signal @ np.array([KR, 1 - KR - KB, KB])
    blue, red = (signal[:, 2] - luma) / (2 * (1 - KB)), (signal[:, 0] - luma) / (2 * (1 - KR))
    steps, zero = ((1023, 1023), 0) if full else ((876, 896), 64)
    values = [luma * steps[0] + zero, blue * steps[1] + 512, red * steps[1] + 512]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16 * len(signal), 16, "yuv444p10le"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = 9, transfer, primaries
        context.color_range = 2 if full else 1
        for number in range(2):
            frame = av.VideoFrame(stream.width, 16, "yuv444p10le")
            frame.colorspace, frame.color_trc, frame.color_primaries = 9, transfer, primaries
            frame.color_range = 2 if full else 1
            for plane, level in zip(frame.planes, values, strict=True):
                rows = np.zeros((16, plane.line_size // 2), np.uint16)
                rows[:, : stream.width] = np.rint(level).astype(np.uint16).repeat(16)
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def seen(path, count):
    clip = media.read_clip(path, 2, 16, 16 * count)
    return clip.frames[0, 8, 8::16].astype(int), " ".join(clip.notes)


COLOURS = np.array(
    [[200, 30, 30], [30, 200, 30], [220, 180, 140], [16, 16, 16], [128, 128, 128], [60, 120, 180]]
)


@pytest.mark.parametrize("full", [False, True])
def test_pq_up_to_reference_white_comes_back_as_it_was(tmp_path, full):
    nit = np.clip((COLOURS / 255) ** 2.4 @ np.linalg.inv(BT2087).T, 0, None) * 203
    path = hdr_file(tmp_path / "pq.mkv", inverse_pq(nit), 16, 9, full=full)
    pixels, said = seen(path, len(COLOURS))
    # In 10 bits one step of Cr moves the dark red of a bright green by 5 levels.
    np.testing.assert_allclose(pixels, COLOURS, atol=6)
    assert np.abs(pixels - COLOURS).mean() < 0.7
    assert "HDR (PQ, BT.2020) tone-mapped" in said


def test_highlights_roll_off_smoothly_and_stay_grey(tmp_path):
    nit = np.array([150, 203, 300, 500, 1000, 4000, 10_000.0])
    path = hdr_file(tmp_path / "pq.mkv", inverse_pq(nit[:, None].repeat(3, 1)), 16, 9)
    pixels, _ = seen(path, len(nit))
    assert np.ptp(pixels, axis=1).max() <= 1
    grey = pixels[:, 0]
    assert (np.diff(grey) >= 0).all() and grey[0] == pytest.approx(255 * (150 / 203) ** (1 / 2.4), abs=1.5)
    assert 240 <= grey[1] < grey[2] < grey[3] < grey[-1] == 255
    x = np.linspace(0, 50, 100_001)
    slope = np.diff(light.roll_off(x, 50.0)) / np.diff(x)
    assert np.abs(np.diff(slope)).max() < 0.02 and slope.min() > 0 and light.roll_off(x, 50.0)[-1] == 1
    np.testing.assert_array_equal(light.roll_off(x[x <= 0.8], 50.0), x[x <= 0.8])


def test_transfer_functions_are_the_inverse_of_those_in_the_standards():
    nit = np.geomspace(0.01, 10_000, 50)
    np.testing.assert_allclose(light.pq_light(inverse_pq(nit)) * 203, nit, rtol=1e-6)
    scene = np.linspace(0, 1, 50)
    np.testing.assert_allclose(light.hlg_light(hlg_oetf(scene)) * 0.2647, scene**1.2, atol=1e-6)
    # Reference white, a signal of 75 %, is 203 nit on a display of 1,000.
    assert light.hlg_light(np.array(0.75)) * 264.7 == pytest.approx(203, abs=0.5)


def test_wide_gamuts_are_converted_and_it_is_said(tmp_path):
    np.testing.assert_allclose(light.to_bt709("BT.2020"), BT2087, atol=2e-4)
    np.testing.assert_allclose(light.to_bt709("Display P3"), P3, atol=2e-4)
    for primaries, matrix, name in ((9, BT2087, "BT.2020"), (12, P3, "Display P3")):
        signal = np.clip((COLOURS / 255) ** 2.4 @ np.linalg.inv(matrix).T, 0, None) ** (1 / 2.4)
        pixels, said = seen(hdr_file(tmp_path / f"{primaries}.mkv", signal, 1, primaries), len(COLOURS))
        np.testing.assert_allclose(pixels, COLOURS, atol=2)
        assert f"wide gamut ({name})" in said
