"""What cameras, editors and the web write beside plain videos: fields, transparency, cuts, names, sizes."""

import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.media import decode
from stp_jax.media.colour import rgb
from tests.media.video_files import encode, gradient_video


def numbers(frames):
    """Which frames of `gradient_video` these are."""
    return np.rint((frames[..., 0].mean((1, 2)) - 20) / 10).astype(int)


def test_interlaced_video_is_deinterlaced_and_it_is_said(tmp_path):
    video = np.full((8, 64, 96, 3), 40, np.uint8)
    for i, frame in enumerate(video):
        for field in (0, 1):  # a bar that moves by 4 pixels between the fields
            left = 8 + (2 * i + field) * 4
            frame[field::2, left : left + 12] = 220
    path = encode(tmp_path / "camera.mp4", video, codec_options={"x264-params": "tff=1", "crf": "4"})
    clip = media.read_clip(path, 8, 64, 96)
    assert "interlaced: deinterlaced (bwdif)" in clip.notes and clip.source_frames == tuple(range(8))
    assert np.abs(np.diff(video[3].astype(int), axis=0)).max() > 150  # a comb
    inside = clip.frames[1:-1, 4:-4].astype(int)
    assert np.abs(np.diff(inside, axis=1)).max() < 40
    kept = [np.abs(clip.frames[1:-1, f::2].astype(int) - video[1:-1, f::2]).max() for f in (0, 1)]
    assert min(kept) < 16  # one of the fields is kept, the lines between are made from it


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_of_webm_becomes_white(tmp_path, codec):
    rgba = np.full((4, 32, 48, 4), (200, 0, 0, 255), np.uint8)
    rgba[:, :, 16:32, 3] = 0
    options = {"auto-alt-ref": "0"}
    path = encode(tmp_path / "a.webm", rgba, codec, "yuva420p", codec_options=options, source_format="rgba")
    for frame in media.read_video(path)[0]:
        np.testing.assert_allclose(frame[:, 4:12], np.broadcast_to([200, 0, 0], (32, 8, 3)), atol=4)
        np.testing.assert_array_equal(frame[:, 20:28], 255)


def test_a_stream_cut_between_key_frames_counts_what_decodes(tmp_path):
    options = {"g": "12", "keyint_min": "12", "sc_threshold": "0"}
    whole = encode(tmp_path / "whole.ts", gradient_video(20), codec_options=options)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.ts"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.dts is not None and number >= 5:
                packet.stream = copy
                target.mux(packet)
    assert decode.times(whole) == (20, pytest.approx(0.95))
    assert decode.times(tmp_path / "cut.ts") == (8, pytest.approx(0.35))
    frames, fps = media.read_video(tmp_path / "cut.ts")
    np.testing.assert_array_equal(numbers(frames), np.arange(12, 20))
    assert fps == pytest.approx(20)


def test_any_name_is_a_file_and_a_url_is_refused(tmp_path):
    video = encode(tmp_path / "a.mp4", gradient_video(2)).read_bytes()
    for name in (b"scene1:take2.mp4", b"caf\xe9.mp4", b"http:a.mp4", b"100%d.mp4", b"-i.mp4"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(video)
        assert len(media.read_video(path)[0]) == 2
    for url in ("https://example.org/a.mp4", "file:///a.mp4", "s3://bucket/a.mp4"):
        with pytest.raises(InputError, match="is a URL: download it first"):
            media.read_clip(url, 5, 16, 16)
    playlist = tmp_path / "a.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match=r"a\.m3u8"):
        media.read_clip(playlist, 5, 16, 16)


def test_sizes_beyond_all_reason_are_refused_before_they_are_allocated(tmp_path):
    images = [Image.new("RGB", (20, 10), (i, 0, 0)) for i in (10, 250)]
    for suffix, at, size in (
        ("webp", 24, (16383).to_bytes(3, "little") * 2),
        ("gif", 6, struct.pack("<HH", 16000, 16000)),
    ):
        path = tmp_path / f"a.{suffix}"
        images[0].save(path, save_all=True, append_images=images[1:], duration=100, lossless=True)
        data = bytearray(path.read_bytes())
        data[at : at + len(size)] = size
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"a.{suffix}.*(too large|more than 67,108,864 pixels)"):
            media.read_clip(path, 5, 16, 16)
    path = encode(tmp_path / "wide.mp4", gradient_video(3), options={"movflags": "+faststart"})
    with pytest.raises(InputError, match="wide.*too large"):
        decode._check_size("wide.mp4", 30_000, 3_000, Fraction(1))
    with pytest.raises(InputError, match="wide.*times as wide"):
        decode._check_size("wide.mp4", 1000, 1000, Fraction(100))
    assert len(media.read_video(path)[0]) == 3


def test_long_lists_of_frames_are_refused(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", gradient_video(6))
    monkeypatch.setattr(decode, "MOST_FRAMES", 5)
    with pytest.raises(InputError, match=r"a\.mp4 has more than 5 frames"):
        media.read_clip(path, 5, 16, 16)
    monkeypatch.setattr(media.video, "_MOST_PIXELS", 48 * 64 * 3)
    with pytest.raises(InputError, match=r"a\.mp4 is too long"):
        media.read_video(path)


def test_times_of_an_animated_webp_are_read_without_its_pictures(tmp_path):
    images = [Image.new("RGB", (20, 10), (i, 0, 0)) for i in (10, 90, 170, 250)]
    path = tmp_path / "a.webp"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 300, 40, 0], lossless=True)
    with_pictures = [seconds for seconds, _ in decode.frames(path)]
    np.testing.assert_allclose(decode.stamps(path), with_pictures)
    np.testing.assert_allclose(with_pictures, [0, 0.1, 0.4, 0.44])


@pytest.mark.parametrize("height", [48, 720])
def test_written_videos_carry_colour_tags(tmp_path, height):
    red = np.full((2, height, 64, 3), (200, 30, 30), np.uint8)
    media.write_video(tmp_path / "a.mp4", red, 10)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        matrix = 1 if height == 720 else 6
        for tagged in (context, next(container.decode(video=0))):
            tags = (tagged.colorspace, tagged.color_primaries, tagged.color_trc, tagged.color_range)
            assert tags == (matrix, 1, 1, 1)
    clip = media.read_clip(tmp_path / "a.mp4", 2, 16, 16)
    np.testing.assert_allclose(clip.frames[0, 8, 8], (200, 30, 30), atol=2)
    assert clip.notes == ()


def yuv_frame(values, pixel_format="yuv444p", **tags):
    frame = av.VideoFrame(32, 32, pixel_format)
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    for name, value in tags.items():
        setattr(frame, name, value)
    return frame


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tag, kr, kb", [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (7, 0.212, 0.087)])
def test_matrix_and_range_follow_the_tags(full, tag, kr, kb):
    colour = np.array([0.7, 0.2, 0.4])
    luma = colour @ np.array([kr, 1 - kr - kb, kb])
    chroma = np.array([(colour[2] - luma) / (2 - 2 * kb), (colour[0] - luma) / (2 - 2 * kr)])
    values = [255 * luma, *(255 * chroma + 128)] if full else [219 * luma + 16, *(224 * chroma + 128)]
    notes = {}
    frame = yuv_frame(np.rint(values).astype(int), colorspace=tag, color_range=2 if full else 1)
    np.testing.assert_allclose(rgb(frame, 32, notes)[16, 16], 255 * colour, atol=2.5)
    assert not notes


def test_matrices_that_are_not_read_are_named():
    with pytest.raises(InputError, match="ICtCp"):
        rgb(yuv_frame([80, 90, 100], colorspace=14), 32, {})


def test_frames_that_repeat_are_remarked_on(tmp_path):
    path = encode(tmp_path / "a.mp4", gradient_video(6))
    assert any(
        "6 frames there for 11: frames repeat" in note for note in media.read_clip(path, 11, 16, 16).notes
    )
    assert not any("repeat" in note for note in media.read_clip(path, 6, 16, 16).notes)
