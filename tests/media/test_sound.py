"""A part of a video's sound at its place, and stretched at its pitch."""

import av
import numpy as np
import pytest

from stp_jax import media
from stp_jax.media import sound
from stp_jax.media.sound import RATE, Sound


def clicks(times, seconds, channels=1):
    samples = np.zeros((round(seconds * RATE), channels), np.float32)
    for time in times:
        samples[round(time * RATE) : round(time * RATE) + 48] = 0.9
    return Sound(samples)


def found(samples):
    """Seconds at which clicks begin."""
    loud = np.flatnonzero(np.abs(samples[:, 0]) > 0.4) / RATE
    return [loud[0], *loud[1:][np.diff(loud) > 0.02]] if len(loud) else []


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.mp4"
    frames = np.zeros((80, 16, 16, 3), np.uint8)
    media.write_video(path, frames, 20, sound=clicks([0.5, 1.5, 3.25], 4, 2))
    return path


def test_a_part_is_where_it_is_in_the_video(filmed):
    assert sound.has_sound(filmed)
    np.testing.assert_allclose(found(sound.read_sound(filmed, 0, 4).samples), [0.5, 1.5, 3.25], atol=2e-3)
    np.testing.assert_allclose(found(sound.read_sound(filmed, 3, 2).samples), [0.25], atol=2e-3)
    assert sound.read_sound(filmed, 1, 0.75).samples.shape == (36_000, 2)
    assert not sound.read_sound(filmed, 3.8, 1).samples[RATE // 2 :].any()


def test_seconds_count_from_the_first_frame(filmed, tmp_path):
    path = tmp_path / "late.mkv"
    with av.open(str(filmed)) as source, av.open(str(path), "w") as target:
        tracks = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                is_video = packet.stream.type == "video"
                if is_video:  # the picture begins 0.4 s after the sound
                    packet.pts += round(0.4 / packet.time_base)
                    packet.dts += round(0.4 / packet.time_base)
                packet.stream = tracks[packet.stream.index]
                target.mux(packet)
    np.testing.assert_allclose(found(sound.read_sound(path, 0, 3).samples), [0.1, 1.1, 2.85], atol=3e-3)


@pytest.mark.parametrize("speed", [0.3, 0.5, 0.8, 1.7, 4])
def test_stretching_keeps_the_pitch(speed):
    time = np.arange(2 * RATE) / RATE
    tone = Sound((0.5 * np.sin(2 * np.pi * 440 * time))[:, None].astype(np.float32))
    count = round(2 * RATE / speed)
    made = sound.stretch(tone, speed, count).samples
    assert made.shape == (count, 1)
    middle = made[count // 4 : count // 2, 0] * np.hanning(count // 2 - count // 4)
    peak = np.abs(np.fft.rfft(middle)).argmax() * RATE / len(middle)
    assert peak == pytest.approx(440, abs=RATE / len(middle))
    placed = found(sound.stretch(clicks([1.0], 2), speed, count).samples)
    assert placed and abs(placed[0] - 1 / speed) < 0.1


def test_no_sound(tmp_path):
    media.write_video(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8), 10)
    (tmp_path / "b.mp4").write_text("no video")
    for path in (tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path, tmp_path / "nowhere"):
        assert not sound.has_sound(path) and sound.read_sound(path, 0, 1) is None
