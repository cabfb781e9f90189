"""Results for editors: lossless ones are, 10 bits keep more than 8, colours are tagged, sound is beside."""

import av
import numpy as np
import pytest
from PIL import Image

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.media import writing
from stp_jax.media.sound import RATE, Sound, read_sound


def smooth(frames=3, height=36, width=64):
    """uint16 [F, H, W, 3], without edges, in all levels."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    ramps = np.stack([x, y, 1 - x], -1)
    return np.stack([np.round(65535 * (0.1 + 0.8 * ramps * (1 - 0.1 * i))) for i in range(frames)]).astype(
        np.uint16
    )


def tags(path):
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return context.colorspace, context.color_primaries, context.color_trc, context.color_range


def test_pngs_are_what_was_written_and_read_as_a_video(tmp_path):
    deep = smooth()
    frames = writing.to_8_bits(deep)
    writing.write_form("png", tmp_path, frames, 10)
    writing.write_form("png16", tmp_path, deep, 10)
    assert [path.name for path in sorted((tmp_path / "result_png").iterdir())] == [
        "0000.png",
        "0001.png",
        "0002.png",
    ]
    np.testing.assert_array_equal(media.read_video(tmp_path / "result_png")[0], frames)
    with av.open(str(tmp_path / "result_png16" / "0001.png")) as container:
        read = next(container.decode(video=0)).to_ndarray()
    np.testing.assert_array_equal(read, deep[1])
    with pytest.raises(InputError, match="result_png exists already"):
        writing.write_form("png", tmp_path, frames, 10)
    assert {path.name for path in tmp_path.iterdir()} == {"result_png", "result_png16"}


def test_lossless_is_lossless(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 35, 63, 3), np.uint8)
    writing.write_form("lossless", tmp_path, frames, 12)
    read, fps = media.read_video(tmp_path / "result.mkv")
    np.testing.assert_array_equal(read, frames)
    assert fps == pytest.approx(12, rel=1e-2)


@pytest.mark.parametrize("form, codec", [("10bit", "hevc"), ("prores", "prores")])
@pytest.mark.parametrize("size", [(36, 64), (720, 64), (35, 63)])
def test_ten_bits_are_kept(tmp_path, form, codec, size):
    deep = smooth(2, *size)
    writing.write_form(form, tmp_path, deep, 10)
    path = tmp_path / writing.FORMS[form].name
    hd = size[0] == 720
    kr, kb = (0.2126, 0.0722) if hd else (0.299, 0.114)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name.startswith(codec) and "10le" in stream.codec_context.pix_fmt
        frame = next(container.decode(video=0))
    assert tags(path) == (1 if hd else 6, 1, 1, 1)
    planes = [np.frombuffer(memoryview(p), "<u2").reshape(p.height, -1)[:, : p.width] for p in frame.planes]
    rgb = deep[0] / 65535
    luma = rgb @ [kr, 1 - kr - kb, kb]
    height, width = size
    np.testing.assert_allclose(planes[0][:height, :width], 64 + 876 * luma, atol=6)
    assert np.abs(planes[0][:height, :width] - (64 + 876 * luma)).mean() < 0.9  # 8 bits have steps of 4
    shown = media.read_video(path)[0][0, :height, :width]
    assert np.abs(shown[2:-2, 2:-2].astype(float) - 255 * rgb[2:-2, 2:-2]).mean() < 3  # chroma is doubled


def test_eight_bits_of_sixteen():
    value = np.linspace(-1, 1, 100_000)
    deep = np.round((value + 1) * 32767.5).astype(np.uint16)
    rounded, truncated = np.round((value + 1) * 127.5), np.floor((value + 1) * 127.5)
    assert (writing.to_8_bits(deep) != rounded).mean() < 0.01
    assert (writing.to_8_bits(deep, truncated=True) != truncated).mean() < 0.01


def tone(seconds, channels=2, hertz=440):
    time = np.arange(round(seconds * RATE)) / RATE
    return Sound(0.5 * np.sin(2 * np.pi * hertz * time)[:, None].repeat(channels, 1).astype(np.float32))


@pytest.mark.parametrize("form", ["mp4", "lossless", "10bit", "prores"])
def test_sound_is_written_beside(tmp_path, form):
    frames, sound = writing.to_8_bits(smooth(10)), tone(1)
    path = tmp_path / ("result.mp4" if form == "mp4" else writing.FORMS[form].name)
    if form == "mp4":
        media.write_video(path, frames, 10, sound=sound)
    else:
        writing.write_form(form, tmp_path, frames, 10, sound)
    assert len(media.read_video(path)[0]) == 10
    read = read_sound(path, 0, 1).samples
    assert read.shape == (RATE, 2)
    middle = slice(RATE // 10, -RATE // 10)
    assert np.abs(read[middle] - sound.samples[middle]).max() < 0.02


def test_a_webp_loops_at_the_speed_of_the_video(tmp_path):
    frames = writing.to_8_bits(smooth(7))
    writing.write_form("webp", tmp_path, frames, 24)
    with Image.open(tmp_path / "result.webp") as image:
        assert image.n_frames == 7 and image.info["loop"] == 0
        lengths, shown = [], []
        for number in range(7):
            image.seek(number)
            shown.append(np.asarray(image.convert("RGB"), float))
            lengths.append(image.info["duration"])
    assert sum(lengths) == round(7000 / 24) and max(lengths) - min(lengths) <= 1
    assert np.abs(shown - frames.astype(float)).mean() < 4  # colours are halved
    with pytest.raises(InputError, match="exists already"):
        writing.write_form("webp", tmp_path, frames, 24)


def test_a_picture_of_the_contact_sheet_kind_has_no_alpha(tmp_path):
    writing.write_form("png", tmp_path, writing.to_8_bits(smooth(1)), 10)
    with Image.open(tmp_path / "result_png" / "0000.png") as image:
        assert image.mode == "RGB"


def test_pictures_become_a_video_one_by_one_with_key_frames_at_short_steps(tmp_path):
    written, asked = writing.to_8_bits(smooth(20, 32, 48)), []

    def pictures():
        for number, picture in enumerate(written):
            asked.append(number)
            yield picture

    writing.write_pictures(tmp_path / "a.mp4", pictures(), 12, crf=4, key_frame_every=8)
    assert asked == list(range(20))
    video, fps = media.read_video(tmp_path / "a.mp4")
    assert fps == pytest.approx(12) and np.abs(video.astype(int) - written).mean() < 4  # colours are halved
    with av.open(str(tmp_path / "a.mp4")) as container:
        keys = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert keys[0] == 0 and max(np.diff([*keys, 20])) <= 8
    writing.write_pictures(tmp_path / "b.mp4", iter(written), 12, crf=4, key_frame_every=8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with pytest.raises(ValueError, match="of even size"):
        writing.write_pictures(tmp_path / "c.mp4", iter(written[:, :31]), 12)
    with pytest.raises(InputError, match="exists already"):
        writing.write_pictures(tmp_path / "a.mp4", iter(written), 12)
