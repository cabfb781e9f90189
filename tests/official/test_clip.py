"""Clips are read as SpaceTimePilot's code reads them, and pixels written as it writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from stp_jax.errors import InputError
from stp_jax.media.writing import to_8_bits
from stp_jax.official.clip import (
    _is_even,
    read_official_clip,
    to_deep_official_pixels,
    to_official_pixels,
)
from tests.media.video_files import BROKEN, break_file, encode, gradient_video


@pytest.mark.parametrize("size", [(45, 80), (80, 45), (33, 47), (32, 48), (100, 100)])
def test_official_clip_takes_consecutive_frames_and_cuts_as_the_official_code(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, (12, *size, 3), dtype=np.uint8)
    encode(tmp_path / "a.mkv", noise, codec="ffv1", pixel_format="bgr0")
    clip = read_official_clip(tmp_path / "a.mkv", 9, 32, 48)
    assert clip.frames.shape == (9, 32, 48, 3) and clip.frames.dtype == np.uint8
    assert clip.fps == pytest.approx(20, rel=1e-3) and clip.source_size == size
    h, w = size
    scale = max(48 / w, 32 / h)
    h, w = round(h * scale), round(w * scale)
    top, left = round((h - 32) / 2), round((w - 48) / 2)
    for got, frame in zip(clip.frames, noise[:9], strict=True):
        resized = np.asarray(Image.fromarray(frame).resize((w, h), Image.BILINEAR))
        np.testing.assert_array_equal(got, resized[top : top + 32, left : left + 48])


def test_official_clip_repeats_the_last_frame_and_may_start_later(tmp_path):
    video = gradient_video(12)
    encode(tmp_path / "a.mkv", video, codec="ffv1", pixel_format="bgr0")
    whole = read_official_clip(tmp_path / "a.mkv", 17, 48, 64)
    np.testing.assert_array_equal(whole.frames, video[[*range(12), *[11] * 5]])
    later = read_official_clip(tmp_path / "a.mkv", 5, 48, 64, start=0.2)
    np.testing.assert_array_equal(later.frames, video[4:9])
    last = read_official_clip(tmp_path / "a.mkv", 5, 48, 64, start=0.55)
    np.testing.assert_array_equal(last.frames, video[[11] * 5])
    assert last.fps == pytest.approx(20)
    with pytest.raises(InputError, match="a.mkv: the start, 0.6 s"):
        read_official_clip(tmp_path / "a.mkv", 5, 48, 64, start=0.6)


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_with_what_is_wrong(tmp_path, kind):
    path = break_file(kind, tmp_path)
    with pytest.raises(InputError, match=BROKEN[kind]) as caught:
        read_official_clip(path, 81, 16, 16)
    assert path.name in str(caught.value)


def test_official_pixels_are_cut_off():
    video = np.array([-2, -1, -0.999, 0, 0.5, 0.9999, 1, 3], np.float32)
    expected = [0, 0, 0, 127, 191, 254, 255, 255]
    for pixels in (to_official_pixels(video), jax.jit(to_official_pixels)(jnp.asarray(video))):
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, expected)
    half = jnp.asarray(video, jnp.bfloat16)
    np.testing.assert_array_equal(to_official_pixels(half)[3:5], [127, 191])


def test_a_variable_frame_rate_keeps_its_speed_and_it_is_said(tmp_path):
    # A phone that dropped frames: 3 stands for nine, at 20 per second.
    pts = [0, 1, 2, 3, 12, 13, 14, 15, 16, 17, 18, 19]
    encode(tmp_path / "a.mkv", gradient_video(12), codec="ffv1", pixel_format="bgr0", pts=pts)
    clip = read_official_clip(tmp_path / "a.mkv", 17, 48, 64)
    assert clip.source_frames == (0, 1, 2, *[3] * 9, 4, 5, 6, 7, 8) and clip.fps == pytest.approx(20)
    np.testing.assert_array_equal(clip.frames, gradient_video(12)[list(clip.source_frames)])
    assert any("variable frame rate: taken at 20 frames per second" in note for note in clip.notes)
    # Beyond the gap the rate is even, and nothing is remarked on.
    later = read_official_clip(tmp_path / "a.mkv", 5, 48, 64, start=0.6)
    assert later.source_frames == (4, 5, 6, 7, 8) and later.notes == ()


def test_time_stamps_in_milliseconds_are_an_even_rate(tmp_path):
    stamps = np.rint(np.arange(90) * 1000 / 29.97) / 1000
    assert _is_even(stamps) and not _is_even(np.delete(stamps, 40))
    assert not _is_even(np.cumsum([1 / 30] * 40 + [1 / 24] * 40))


def test_deep_pixels_are_the_official_ones_with_more_bits():
    video = np.random.default_rng(0).uniform(-1.1, 1.1, (2, 50, 50, 3)).astype(np.float32)
    deep = to_deep_official_pixels(video)
    assert deep.dtype == np.uint16 and deep.max() == 65535
    np.testing.assert_array_equal(to_8_bits(deep, truncated=True), to_official_pixels(video))
