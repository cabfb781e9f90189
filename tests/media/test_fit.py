"""Pictures brought to a size: against closed forms, and a filter written here in float64."""

import io

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc

from stp_jax.media.fit import covering, fit_frame, fit_frame_intrinsics, fit_image, fit_intrinsics
from stp_jax.media.orientation import frame_picture

SIZES = [((64, 96), (32, 48)), ((97, 143), (32, 48)), ((120, 91), (48, 80)), ((640, 640), (240, 416))]


def yuv(planes: list[np.ndarray], form="yuv420p", matrix=5, whole=1) -> av.VideoFrame:
    """A frame of these planes; `matrix` as in H.273, `whole` 2 is full range."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], form)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        rows[:, : values.shape[1]] = values
        plane.update(rows)
    frame.colorspace, frame.color_range = matrix, whole
    return frame


def grey(brightness: np.ndarray) -> av.VideoFrame:
    """A frame in YUV whose RGB values, 0 to 255, are these but for rounding."""
    height, width = brightness.shape
    luma = np.round(16 + brightness * 219 / 255).astype(np.uint8)
    return yuv([luma, *[np.full((-(-height // 2), -(-width // 2)), 128, np.uint8)] * 2])


def seen_at(size, cut, lens=fit_frame_intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a picture of `size` that are in the middles of the pixels of `cut`, by the lens."""
    height, width = cut
    fx, fy, cx, cy = lens(np.array([1, 1, 0.5, 0.5]), size, height, width)
    columns = ((np.arange(width) + 0.5) / width - cx) / fx + 0.5
    rows = ((np.arange(height) + 0.5) / height - cy) / fy + 0.5
    return rows * size[0], columns * size[1]


@pytest.mark.parametrize(("size", "cut"), [*SIZES, ((938, 543), (832, 480)), ((30, 50), (60, 60))])
def test_the_covering_size_is_whole_even_around_the_crop_and_of_the_right_shape(size, cut):
    whole = covering(size, cut)
    scale = max(to / of for to, of in zip(cut, size, strict=True))
    assert any(a == b for a, b in zip(whole, cut, strict=True))
    for side, kept, exact in zip(whole, cut, (size[0] * scale, size[1] * scale), strict=True):
        assert side >= kept and (side - kept) % 2 == 0 and abs(side - exact) <= 1


@pytest.mark.parametrize(("size", "cut"), SIZES)
def test_pictures_lie_where_their_lenses_say(size, cut):
    """On a straight slope a filter that is the same on both sides gives the value at its place."""
    rows, columns = (np.arange(n) + 0.5 for n in size)
    inner = np.s_[6:-6, 6:-6]  # outside of the picture there is no slope
    for across in (False, True):
        slope = columns / size[1] if across else (rows / size[0])[:, None]
        slope = np.broadcast_to(20 + 200 * slope, size)
        image = np.repeat(np.round(slope).astype(np.uint8)[..., None], 3, -1)
        coloured = av.VideoFrame.from_ndarray(image, format="rgb24")  # which Pillow resizes
        for fitted, lens in (
            (fit_frame(grey(slope), *cut), fit_frame_intrinsics),
            (fit_frame(coloured, *cut), fit_frame_intrinsics),
            (fit_image(image, *cut), fit_intrinsics),
        ):
            y, x = seen_at(size, cut, lens)
            expected = 20 + 200 * (x / size[1] if across else (y / size[0])[:, None])
            off = (fitted - np.broadcast_to(expected, cut)[..., None])[inner]
            assert abs(off).max() < 1.6 and abs(off.mean()) < 0.2


@pytest.mark.parametrize(("size", "cut"), [((640, 640), (240, 416)), ((400, 400), (50, 50))])
def test_waves_that_the_new_pixels_can_show_stay_and_others_vanish(size, cut):
    scale = size[0] / covering(size, cut)[0]
    rows, columns = (np.arange(n) + 0.5 for n in size)
    y, x = seen_at(size, cut)
    slow = 1 / (16 * scale)  # 16 new pixels for a wave
    picture = 128 + 80 * np.cos(2 * np.pi * slow * rows)[:, None] * np.cos(2 * np.pi * slow * columns)
    expected = 128 + 80 * np.cos(2 * np.pi * slow * y)[:, None] * np.cos(2 * np.pi * slow * x)
    frame = grey(picture)
    for fitted in (fit_frame(frame, *cut), fit_image(frame_picture(frame), *cut)):  # no size is rounded here
        assert abs(fitted - expected[..., None])[4:-4, 4:-4].max() < 2.5
    if scale > 4:
        fast = 0.8 / scale  # 1.25 new pixels for a wave: a picture without filter would show one of 5
        stripes = 128 + 80 * np.cos(2 * np.pi * fast * columns)
        fitted = fit_frame(grey(np.broadcast_to(stripes, size)), *cut)
        assert abs(fitted.astype(float) - 128)[4:-4, 4:-4].max() < 0.06 * 80


def keys(x: np.ndarray, a: float = -0.6) -> np.ndarray:
    """Keys' cubic kernel, as FFmpeg has it."""
    x = abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    return np.where(x < 1, near, np.where(x < 2, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a, 0))


def resizing(count: int, to: int, shift: float = 0.0) -> np.ndarray:
    """float64 [to, count]: resizes a row of samples, the first at 0.5 + shift; borders are repeated."""
    step = count / to
    places = np.arange(-count, 2 * count)
    middles = (np.arange(to) + 0.5) * step
    weights = keys((places + 0.5 + shift - middles[:, None]) / max(step, 1))
    matrix = np.zeros((to, count))
    np.add.at(matrix.T, np.clip(places, 0, count - 1), weights.T)
    return matrix / matrix.sum(1, keepdims=True)


def to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, kr: float, kb: float, full: bool) -> np.ndarray:
    """RGB 0..255 of YUV of 8 bits (ITU-R BT.709): Y = Kr R + Kg G + Kb B, Cb = (B - Y) / 2 (1 - Kb)."""
    luma = y / 255 if full else (y - 16) / 219
    cb, cr = ((c - 128) / (255 if full else 224) for c in (u, v))
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return 255 * np.clip(np.stack([red, green, blue], -1), 0, 1)


@pytest.mark.parametrize(("codec", "shift"), [("libx264", -0.25), ("libvpx-vp9", 0.0)])
def test_frames_are_resized_as_exactly_as_8_bits_allow_and_so_are_their_colours(codec, shift):
    """`shift` of colours against the middle of their pixels, as the file says or leaves open."""
    rng, size, cut = np.random.default_rng(0), (120, 160), (60, 88)
    planes = [
        rng.integers(low, high, (size[0] // part, size[1] // part)).astype(np.uint8)
        for low, high, part in ((90, 150, 1), (90, 166, 2), (90, 166, 2))
    ]
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as writer:
        stream = writer.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        writer.mux([*stream.encode(yuv(planes)), *stream.encode()])
    with av.open(io.BytesIO(file.getvalue())) as reader:
        (frame,) = reader.decode(video=0)
    y, u, v = (
        np.frombuffer(memoryview(p), np.uint8).reshape(p.height, p.line_size)[:, : p.width].astype(np.float64)
        for p in frame.planes
    )
    height, width = covering(size, cut)
    down, across = resizing(size[0], height), resizing(size[1], width)
    half_down, half_across = resizing(size[0] // 2, height), resizing(size[1] // 2, width, shift)
    whole = to_rgb(
        down @ y @ across.T, half_down @ u @ half_across.T, half_down @ v @ half_across.T, 0.299, 0.114, False
    )
    top, left = (height - cut[0]) // 2, (width - cut[1]) // 2
    expected = whole[top : top + cut[0], left : left + cut[1]]
    off = fit_frame(frame, *cut) - expected
    assert np.sqrt((off**2).mean()) < 0.32  # rounding alone: sqrt(1/12) = 0.289
    assert abs(off.mean()) < 0.02


MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("whole", [1, 2])
@pytest.mark.parametrize("bits", [8, 10])
def test_colours_are_those_that_the_tags_say(matrix, whole, bits):
    rng, form = np.random.default_rng(0), "yuv420p" if bits == 8 else "yuv420p10le"
    for _ in range(10):
        level = rng.integers(70, 180, 3)
        planes = [
            np.full((32 // part, 32 // part), int(value) << (bits - 8), np.uint8 if bits == 8 else np.uint16)
            for value, part in zip(level, (1, 2, 2), strict=True)
        ]
        fitted = fit_frame(yuv(planes, form, matrix, whole), 16, 16)
        expected = to_rgb(*level.astype(np.float64), *MATRICES[matrix], whole == 2)
        # The full range of 10 bits ends at 1023, not at 4 x 255: 0.3 % less.
        assert abs(fitted - expected).max() < (1.6 if bits == 10 and whole == 2 else 1.1)


def test_untagged_frames_are_of_601_or_of_709_by_their_own_size_not_by_the_new_one():
    for size, (kr, kb) in (((700, 32), MATRICES[5]), ((720, 32), MATRICES[1])):
        planes = [
            np.full((size[0] // p, size[1] // p), v, np.uint8) for v, p in ((120, 1), (90, 2), (170, 2))
        ]
        fitted = fit_frame(yuv(planes, matrix=2, whole=0), 16, 16)
        assert abs(fitted - to_rgb(*map(np.float64, (120, 90, 170)), kr, kb, False)).max() < 1.1


def test_what_needs_more_than_ffmpeg_is_read_in_its_own_size_and_cut_in_the_same_way():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (48, 64, 4), np.uint8)
    hdr, wide = (yuv([noise[..., 0], *[noise[::2, ::2, c].copy() for c in (1, 2)]], matrix=9) for _ in "ab")
    hdr.color_trc, hdr.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
    wide.color_primaries = ColorPrimaries.SMPTE432
    frames = [hdr, wide] + [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=form)
        for array, form in ((noise, "rgba"), (noise[..., :3], "rgb24"), (noise[..., 0], "gray"))
    ]
    for frame in frames:
        assert covering((48, 64), (24, 24)) == (24, 32)  # as it is, and so `fit_image` cuts the same
        np.testing.assert_array_equal(fit_frame(frame, 24, 24), fit_image(frame_picture(frame), 24, 24))
