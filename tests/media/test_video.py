"""Videos in and out: what comes back equals what went in, and every broken file gets a clear message."""

import struct

import av
import numpy as np
import pytest
from PIL import Image

from stp_jax import media
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.media import pictures
from tests.media.video_files import BROKEN, break_file, encode, gradient_video


def error(a, b):
    return np.abs(a.astype(int) - b).mean()


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
def test_written_video_comes_back(tmp_path, pixel_format):
    video = gradient_video()
    media.write_video(tmp_path / "a.mp4", video, 23.976, crf=4, pixel_format=pixel_format)
    frames, fps = media.read_video(tmp_path / "a.mp4")
    assert frames.shape == video.shape and frames.dtype == np.uint8
    assert error(frames, video) < (1 if pixel_format == "yuv444p" else 2.5)
    assert fps == pytest.approx(23.976, abs=0.01)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]  # no temporary file is left


def test_yuv444p_keeps_the_colours_of_small_videos(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    errors = []
    for pixel_format in ("yuv420p", "yuv444p"):
        path = tmp_path / f"{pixel_format}.mp4"
        media.write_video(path, noise, 10, crf=0, pixel_format=pixel_format)
        errors.append(error(media.read_video(path)[0], noise))
    assert errors[1] < 2 < 10 < errors[0]


def test_odd_sizes(tmp_path):
    video = gradient_video(5, 33, 47)
    media.write_video(tmp_path / "420.mp4", video, 10)
    assert media.read_video(tmp_path / "420.mp4")[0].shape == (5, 34, 48, 3)  # it plays everywhere
    media.write_video(tmp_path / "444.mp4", video, 10, pixel_format="yuv444p", crf=4)
    frames, _ = media.read_video(tmp_path / "444.mp4")
    assert frames.shape == video.shape and error(frames, video) < 1.5


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(tmp_path):
    (tmp_path / "a.mp4").write_text("precious")
    with pytest.raises(InputError, match=r"a\.mp4 exists"):
        media.write_video(tmp_path / "a.mp4", gradient_video(), 10)
    assert (tmp_path / "a.mp4").read_text() == "precious"
    with pytest.raises(InputError, match=r"missing/a\.mp4 cannot be written"):
        media.write_video(tmp_path / "missing" / "a.mp4", gradient_video(), 10)
    with pytest.raises(RuntimeError), media.new_file(tmp_path / "b.txt") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def rotate_mark(path, quarter_turns_clockwise):
    """Sets the display matrix of the video track of an mp4, as phones do."""
    a, b = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns_clockwise]
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", a * one, b * one, 0, -b * one, a * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_rotation_marks_are_obeyed(tmp_path, quarter_turns):
    video = gradient_video(3)
    path = encode(tmp_path / "phone.mp4", video, options={"movflags": "+faststart"})
    rotate_mark(path, quarter_turns)
    upright = np.rot90(video, -quarter_turns, axes=(1, 2))  # clockwise
    frames, _ = media.read_video(path)
    assert frames.shape == upright.shape and error(frames, upright) < 3
    assert media.read_clip(path, 5, 16, 16).source_size == upright.shape[1:3]


def test_grey_video_becomes_rgb(tmp_path):
    grey = gradient_video()[..., 1]
    path = encode(tmp_path / "grey.mkv", grey, codec="ffv1", pixel_format="gray", source_format="gray")
    frames, _ = media.read_video(path)
    np.testing.assert_array_equal(frames, np.repeat(grey[..., None], 3, -1))


def test_transparent_parts_become_white(tmp_path):
    rgba = np.full((4, 16, 16, 4), (200, 0, 0, 255), np.uint8)
    rgba[:, :, 4:8, 3] = 0
    rgba[:, :, 8:, 3] = 128
    path = encode(tmp_path / "alpha.mov", rgba, codec="png", pixel_format="rgba", source_format="rgba")
    frame = media.read_video(path)[0][2]
    np.testing.assert_array_equal(frame[0, 0], [200, 0, 0])
    np.testing.assert_array_equal(frame[0, 5], [255, 255, 255])
    np.testing.assert_allclose(frame[0, 12], [227, 127, 127], atol=1)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations(tmp_path, suffix):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [Image.new("RGB", (20, 10), c) for c in colours]
    path = tmp_path / f"a.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 300, 100], lossless=True)
    frames, _ = media.read_video(path)
    np.testing.assert_allclose(frames[:, 5, 5], colours, atol=2)
    # 5 times over the 0.4 s between first and last: red, then green from 0.1 s on, blue at 0.4 s.
    clip = media.read_clip(path, 5, 8, 8)
    np.testing.assert_allclose(clip.frames[:, 4, 4], [colours[i] for i in (0, 1, 1, 1, 2)], atol=2)
    assert clip.fps == pytest.approx(10)


def test_clip_of_variable_frame_rate_follows_seconds(tmp_path):
    video = gradient_video(6)
    pts = [0, 1, 2, 3, 12, 16]  # of 1/20 s; the picture 3 stands for 9/20 s
    path = encode(tmp_path / "vfr.mkv", video, pts=pts)
    clip = media.read_clip(path, 9, 48, 64)  # every 2/20 s
    shown = np.rint((clip.frames[..., 0].mean((1, 2)) - 20) / 10).astype(int)
    np.testing.assert_array_equal(shown, [0, 2, 3, 3, 3, 3, 4, 4, 5])
    assert clip.fps == pytest.approx(10, rel=1e-2)


@pytest.mark.parametrize("frames", [5, 17, 40])
def test_clip_of_any_length_spans_the_video(tmp_path, frames):
    video = gradient_video(12)
    path = encode(tmp_path / "a.mp4", video)
    clip = media.read_clip(path, frames, 24, 24)
    assert clip.frames.shape == (frames, 24, 24, 3) and clip.source_size == (48, 64)
    shown = (clip.frames[..., 0].mean((1, 2)) - 20) / 10
    np.testing.assert_array_equal(np.rint(shown), np.floor(np.linspace(0, 11, frames) + 1e-6))
    assert (frames - 1) / clip.fps == pytest.approx(11 / 20)


def test_clip_of_a_range_and_of_a_video_in_memory(tmp_path):
    video = gradient_video(20)
    path = encode(tmp_path / "a.mp4", video)
    from_file = media.read_clip(path, 5, 48, 64, start=0.2, end=0.6)
    in_memory = media.fit_clip(video, 20, 5, 48, 64, start=0.2, end=0.6)
    np.testing.assert_array_equal(in_memory.frames, video[4:13:2])
    assert error(from_file.frames, in_memory.frames) < 2
    assert from_file.fps == pytest.approx(10) and in_memory.fps == pytest.approx(10)
    for start, end in ((0.5, 0.5), (-0.1, 0.5), (0.2, 3.0), (2.0, None)):
        with pytest.raises(InputError, match="0.950 s"):
            media.read_clip(path, 5, 48, 64, start=start, end=end)


def test_fit_cuts_the_middle_and_intrinsics_follow():
    height, width = 60, 100
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * x, 4 * y, 0 * x], -1).astype(np.uint8)
    fitted = media.fit_image(image, 30, 30)  # 60 x 60 from the middle, halved
    # An output pixel is the mean of two by two: its centre lies at 20.5 + 2 column, 0.5 + 2 row.
    np.testing.assert_allclose(fitted[15, :, 0], 2 * (20.5 + 2 * np.arange(30)), atol=2)
    np.testing.assert_allclose(fitted[:, 15, 1], 4 * (0.5 + 2 * np.arange(30)), atol=4)
    np.testing.assert_array_equal(media.fit_image(image, 60, 100), image)

    before = np.array([[0.9, 1.5, 0.52, 0.47]])
    after = media.fit_intrinsics(before, (height, width), 30, 30)
    point = np.array([0.1, -0.05])  # x / z, y / z of a point seen
    u, v = before[0, :2] * point + before[0, 2:]
    expected = [(u * width - 20) / 60, v]
    np.testing.assert_allclose(after[0, :2] * point + after[0, 2:], expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(543, 938), (550, 938), (938, 543)])
def test_sizes_whose_edges_are_rounded_past_the_picture_are_fitted(size):
    """938 / 832 * 832 is a little more than 938 in floating point."""
    height, width = (480, 832) if size[1] == 938 else (832, 480)
    fitted = media.fit_image(np.full((*size, 3), 90, np.uint8), height, width)
    assert fitted.shape == (height, width, 3) and (fitted == 90).all()


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_with_what_is_wrong(tmp_path, kind):
    path = break_file(kind, tmp_path)
    readers = [lambda: media.read_clip(path, 5, 16, 16)]
    if kind not in ("one frame", "photo"):  # of a single picture read_video makes a video of one frame
        readers.append(lambda: media.read_video(path))
    for read in readers:
        with pytest.raises(InputError, match=BROKEN[kind]) as caught:
            read()
        assert path.name in str(caught.value)


def test_damage_beyond_the_wanted_range_does_not_matter(tmp_path):
    path = break_file("truncated, header first", tmp_path)
    assert len(media.read_clip(path, 5, 16, 16, end=0.5).frames) == 5


def test_pictures(tmp_path):
    video = gradient_video()
    joined = pictures.side_by_side({"source": video, "target": video[::-1]})
    assert joined.shape == (12, 68, 132, 3)
    np.testing.assert_array_equal(joined[:, 20:, :64], video)
    np.testing.assert_array_equal(joined[:, 20:, 68:], video[::-1])

    pictures.contact_sheet(tmp_path / "sheet.png", {"source": video, "a very long label": video}, columns=3)
    with Image.open(tmp_path / "sheet.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (100, 110 + 3 * 66, 3)
    np.testing.assert_array_equal(sheet[:48, -66:-2], video[-1])

    poses = np.tile(np.eye(4, dtype=np.float32), (12, 1, 1))
    still = View(poses, np.full((12, 4), 0.5, np.float32), np.arange(12))
    keys = np.ones((2, 3)), np.array([[0.0, 11], [4, 5]])
    pictures.plot_cameras_and_time(tmp_path / "plot.png", still, still.at(slice(None, None, -1)), *keys)
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 1000
    with pytest.raises(InputError, match="exists"):
        pictures.contact_sheet(tmp_path / "plot.png", {"source": video})


def test_metadata_may_be_in_any_encoding(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(path, "w") as container:
        container.metadata["title"] = "titleXX"
        stream = container.add_stream("h264", rate=8, options={"bf": "0"})
        stream.width = stream.height = 32
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b"titleXX" in data
    path.write_bytes(data.replace(b"titleXX", b"title\xe9\xe8"))  # Latin-1
    assert len(media.read_video(path)[0]) == 3
