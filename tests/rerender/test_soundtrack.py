"""Sound of a new video: kept at the source's speed, stretched at another, left out otherwise; it is said."""

import numpy as np
import pytest

from stp_jax import media
from stp_jax.media.sound import RATE, Sound
from stp_jax.rerender.request import read_request
from stp_jax.rerender.results import playback
from stp_jax.rerender.soundtrack import soundtrack, speed
from stp_jax.weights.native import SamplingNotes
from tests.tiny_model import NOTES

FRAMES = 17


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """4 s at 20 fps with a click each half second, the n-th of loudness n / 10."""
    path = tmp_path_factory.mktemp("sound") / "a.mov"
    samples = np.zeros((4 * RATE, 1), np.float32)
    for n in range(8):
        at = n * RATE // 2
        samples[at : at + 480, 0] = 0.1 * (n + 1) * np.sin(np.arange(480) / 480 * 2 * np.pi * 10)
    media.write_video(path, np.zeros((80, 16, 16, 3), np.uint8), 20, sound=Sound(samples))
    return path


def made(path, **asked):
    notes = SamplingNotes(**NOTES | {"frames": FRAMES})
    request = read_request(notes, **{"video": path, "camera": "static", "animation_time": "forward"} | asked)
    fps, _ = playback(request.clip, request.fps)
    return soundtrack(path, request, fps), FRAMES / fps


def clicks(sound):
    """Seconds at which clicks begin, and which they are."""
    loud = np.abs(sound.samples[:, 0])
    starts = np.flatnonzero(loud > 0.03)
    starts = starts[np.diff(starts, prepend=-RATE) > RATE // 20]
    return starts / RATE, [round(10 * float(loud[at : at + 600].max())) - 1 for at in starts]


def test_the_source_s_speed_keeps_its_sound(filmed):
    (sound, said), seconds = made(filmed, start=0.9, duration=2)
    assert said == "Sound: the source's" and len(sound.samples) == pytest.approx(seconds * RATE, abs=1)
    times, which = clicks(sound)
    np.testing.assert_allclose(times[:4], [0.1, 0.6, 1.1, 1.6], atol=5e-3)
    assert which[:4] == [2, 3, 4, 5]


def test_another_constant_speed_stretches_it(filmed):
    # Half of the source's frames, from the middle of them on, at the same rate: half as fast.
    (sound, said), seconds = made(filmed, duration=3, animation_time="0:8, 16:16")
    assert said == "Sound: the source's, stretched (2 times slower)"
    times, which = clicks(sound)
    np.testing.assert_allclose(times[:2], [0, 1], atol=0.1)
    assert which[0] == 3 and len(sound.samples) == pytest.approx(seconds * RATE, abs=1)
    (_, said), _ = made(filmed, duration=3, fps=12)
    assert said.startswith("Sound: the source's, stretched (2.25 times faster)")


@pytest.mark.parametrize(
    "clock", ["bullet_time", "reverse", "0:0, 8:8, 16:8", "0:4, 16:4", "0:0, 8:4, 16:16"]
)
def test_other_clocks_have_no_sound(filmed, clock):
    (sound, said), _ = made(filmed, animation_time=clock)
    assert sound is None and said.startswith("Sound: left out, as the animation time does not run")


def test_what_would_be_beyond_recognition_is_left_out(filmed):
    (sound, said), _ = made(filmed, duration=3, fps=60)
    assert sound is None and said == "Sound: left out, as the new video is 11.2 times faster"


def test_silent_sources_are_not_spoken_of(tmp_path):
    media.write_video(tmp_path / "a.mp4", np.zeros((20, 16, 16, 3), np.uint8), 10)
    assert made(tmp_path / "a.mp4")[0] == (None, None)


def test_speed():
    assert speed(np.arange(5), 5, 5) == 1 and speed(np.arange(5) / 2 + 1, 10, 20) == 1
    assert speed(np.arange(5)[::-1], 5, 5) is None and speed(np.zeros(5), 5, 5) is None
    assert speed(np.zeros(1), 5, 5) is None
