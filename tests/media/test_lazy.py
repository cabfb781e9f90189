"""Pictures that are read when they are asked for are those of the whole file, wherever decoding begins."""

import av
import numpy as np
import pytest
from video_files import encode

from stp_jax.media import decode, sources
from stp_jax.media.lazy import FilePictures

FRAMES, GROUP = 60, 12


def moving_noise(frames=FRAMES, height=64, width=96):
    noise = np.random.default_rng(0).integers(0, 255, (height // 4, width // 4, 3), np.uint8)
    picture = noise.repeat(4, 0).repeat(4, 1)
    return np.stack([np.roll(picture, (time, 2 * time), (0, 1)) for time in range(frames)])


def repacked(source, path, *, later, key):
    """The packets of a file in another one: later by `later` ticks, all marked as key frames or as not."""
    with av.open(str(source)) as reader, av.open(str(path), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts + later, packet.dts + later
                packet.is_keyframe = packet.is_keyframe if key is None else key
                packet.stream = copy
                writer.mux(packet)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """How many frames were decoded for each opened file, one number each."""
    counts, make = [], decode._decoder

    def counted(stream, options):
        counts.append(0)
        inner = make(stream, options)

        def all_of(packet):
            frames = inner(packet)
            counts[-1] += len(frames)
            return frames

        return all_of

    monkeypatch.setattr(decode, "_decoder", counted)
    return counts


def x264(more=""):
    return {"x264-params": f"b-adapt=0:scenecut=0:keyint={GROUP}:min-keyint={GROUP}:bframes=3:{more}"}


X265 = {"x265-params": f"log-level=none:keyint={GROUP}:scenecut=0:open-gop=1"}
VPX = {"deadline": "realtime", "cpu-used": "8", "g": str(GROUP), "auto-alt-ref": "0"}
OTHERS = {"g": str(GROUP), "bf": "2"}
VARIABLE = np.cumsum(np.random.default_rng(1).choice([1, 1, 2, 7], FRAMES)).tolist()
#: file name, codec, its options, time stamps
FILES = {
    "plain": ("a.mp4", "libx264", x264(), None),
    "open groups": ("a.mp4", "libx264", x264("open-gop=1"), None),
    "HEVC, open groups": ("a.mp4", "libx265", X265, None),
    "VP8": ("a.webm", "libvpx", VPX, None),
    "VP9": ("a.webm", "libvpx-vp9", VPX, None),
    "AV1": ("a.mp4", "libsvtav1", {"preset": "12", "g": str(GROUP)}, None),
    "FFV1": ("a.mkv", "ffv1", {"g": str(GROUP)}, None),
    "MPEG-2": ("a.ts", "mpeg2video", OTHERS, None),
    "MPEG-4": ("a.mp4", "mpeg4", OTHERS, None),
    "transport stream": ("a.ts", "libx264", x264(), None),
    "variable frame rate": ("a.mp4", "libx264", x264(), VARIABLE),
    "variable frame rate, Matroska": ("a.mkv", "libx264", x264(), VARIABLE),
}
#: which have nowhere to begin but at their beginning
FROM_THE_BEGINNING = {
    "intra refresh": ("a.mp4", "libx264", x264("intra-refresh=1")),
    "no time stamps": ("a.h264", "libx264", x264()),
    "AVI, without times of B-frames": ("a.avi", "libx264", x264()),
    "interlaced": ("a.mp4", "libx264", x264("interlaced=1")),
    "program stream, without index": ("a.mpg", "mpeg2video", OTHERS),
    "codec of which nothing is known": ("a.wmv", "wmv2", {"g": str(GROUP)}),
}


def check_backwards(path):
    """Reads a file backwards, then here and there; all are what reading it at once gives."""
    stamps = sources.stamps(path)
    last = len(stamps)
    whole = FilePictures(path, stamps, lambda picture: picture)(np.arange(last))
    read = FilePictures(path, stamps, lambda picture: picture)
    backwards = [first + np.arange(9) for first in range(last - 9, -1, -5)]
    here_and_there = np.random.default_rng(0).integers(0, last - 5, (20, 1)) + np.arange(5)
    for numbers in (*backwards, *here_and_there):
        np.testing.assert_array_equal(read(numbers), whole[numbers], str(numbers))
    read = FilePictures(path, stamps, lambda picture: picture)  # learns the file here and there
    for numbers in here_and_there:
        np.testing.assert_array_equal(read(numbers), whole[numbers], str(numbers))


@pytest.mark.parametrize("kind", FILES)
def test_a_clock_that_runs_backwards_begins_at_key_frames(tmp_path, decoded, kind):
    name, codec, options, pts = FILES[kind]
    path = encode(tmp_path / name, moving_noise(), codec, pts=pts, codec_options=options)
    check_backwards(path)
    decoded.clear()
    read = FilePictures(path, sources.stamps(path), lambda picture: picture)
    for first in range(FRAMES - 9, -1, -5):
        read(first + np.arange(9))
    _, whole, *others = decoded  # the first one is opened for the time stamps
    assert whole == FRAMES and max(others) < GROUP + 9


@pytest.mark.parametrize("kind", FROM_THE_BEGINNING)
def test_what_cannot_be_entered_is_decoded_from_its_beginning(tmp_path, decoded, kind):
    name, codec, options = FROM_THE_BEGINNING[kind]
    rate = 25 if name == "a.mpg" else 20
    path = encode(tmp_path / name, moving_noise(), codec, codec_options=options, rate=rate)
    check_backwards(path)
    decoded.clear()
    read = FilePictures(path, sources.stamps(path), lambda picture: picture)
    for first in (FRAMES - 9, FRAMES - 18):
        read(first + np.arange(9))
    assert decoded[-1] > FRAMES - 18


@pytest.mark.parametrize(
    ("name", "later", "key"),
    [
        ("later.ts", 90 * 777, None),
        ("later.mkv", 7777, None),
        ("keys.mp4", 0, True),
    ],
)
def test_first_time_stamps_and_marks_of_key_frames_may_be_any(tmp_path, name, later, key):
    path = encode(tmp_path / "a.mp4", moving_noise(), codec_options=x264())
    check_backwards(repacked(path, tmp_path / name, later=later, key=key))
