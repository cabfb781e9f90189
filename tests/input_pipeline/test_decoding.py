"""Single pictures of videos are those of the whole video, whatever its codec and key frames."""

import io

import av
import numpy as np
import pytest
import stored

from input_pipeline import decoding, fitting, scene_videos
from input_pipeline.decoding import VideoFrames, decode_video
from input_pipeline.scene_videos import SceneVideos
from input_pipeline.shots import Caching, SceneReader, Shot, decode_scene, open_scene, take, together
from stp_jax.errors import InputError

FRAMES, SIZE = 40, (64, 96)  # x265 corrupts its memory below that
X264 = {"g": "12", "bf": "3", "x264-params": "b-adapt=0:scenecut=0:open-gop={open}:intra-refresh={refresh}"}


def encode(
    codec="libx264", container="mp4", options=None, frames=FRAMES, size=SIZE, seed=0, block=4
) -> bytes:
    """A video of moving noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[0] // block, size[1] // block, 3), np.uint8)
    picture = noise.repeat(block, 0).repeat(block, 1)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as writer:
        stream = writer.add_stream(codec, rate=25, options={"g": "12"} | (options or {}))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for time in range(frames):
            moved = av.VideoFrame.from_ndarray(np.roll(picture, (time, 2 * time), (0, 1)), format="rgb24")
            writer.mux(stream.encode(moved))
        writer.mux(stream.encode())
    return file.getvalue()


def x264(open_gop=0, refresh=0) -> dict[str, str]:
    return X264 | {"x264-params": X264["x264-params"].format(open=open_gop, refresh=refresh)}


def video_frames(data: bytes, frames=FRAMES, size=None) -> VideoFrames:
    return VideoFrames(data, "video", frames, SIZE, size)


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", x264()),
        ("libx264", "mp4", x264(open_gop=1)),
        ("libx264", "mp4", x264(refresh=1)),
        ("libx264", "mpegts", x264()),
        ("libx265", "mp4", {"x265-params": "log-level=none:keyint=12:open-gop=1"}),
        ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("mpeg2video", "mpegts", {"bf": "2"}),
        ("mpeg4", "mp4", {"bf": "2"}),
    ],
)
def test_any_pictures_are_those_of_the_whole_video(monkeypatch, codec, container, options):
    data = encode(codec, container, options)
    whole, rng = decode_video(data, "video"), np.random.default_rng(0)
    assert len(whole) == FRAMES
    video = video_frames(data)
    for count in (1, 2, 7, FRAMES):
        wanted = rng.choice(FRAMES, count, replace=False).tolist()
        found = dict(video.pictures(wanted))
        assert sorted(found) == sorted(wanted)
        for number, picture in found.items():
            np.testing.assert_array_equal(picture, whole[number], str(number))
    kept = SceneVideos([data], "one", FRAMES, None)
    kept.keep()
    monkeypatch.setattr(scene_videos, "_FEW", 0)
    for _ in range(12):  # the decoder stays where it is in between
        wanted = rng.choice(FRAMES, 3, replace=False)
        np.testing.assert_array_equal(kept[np.zeros(3, int), wanted], whole[wanted], str(wanted))


def converted(monkeypatch) -> list[int]:
    """Time stamps of the frames that are made into pictures from now on."""
    made, convert = [], fitting.fit_frame
    monkeypatch.setattr(
        fitting, "fit_frame", lambda frame, size: made.append(frame.pts) or convert(frame, size)
    )
    return made


def test_only_what_is_needed_is_decoded(monkeypatch):
    made = converted(monkeypatch)
    video = video_frames(encode(options=x264()))
    assert [next(video.part(number))[0] for number in (11, 12, 39)] == [0, 12, 36]
    assert [number for number, _ in video.part(13)] == list(video.around(13)) == list(range(12, 24))
    assert not made
    assert [number for number, _ in video.pictures([26, 13])] == [13, 26]
    assert len(made) == 2


def test_a_video_of_another_length_or_size_is_an_error():
    data = encode()
    with pytest.raises(InputError, match="video: 40 frames instead of 41"):
        list(video_frames(data, FRAMES + 1).pictures([3]))
    with pytest.raises(
        InputError, match="video: a picture of 96 x 64, where the scene's first is of 32 x 32"
    ):
        list(VideoFrames(data, "video", FRAMES, (32, 32), None).pictures([3]))
    with pytest.raises(InputError, match="video: not a readable video"):
        list(video_frames(data[:300]).pictures([3]))


def test_a_truncated_video_is_an_error():
    data = encode(container="mpegts")
    with pytest.raises(InputError, match="frames instead of 40"):
        list(video_frames(data[: len(data) * 2 // 3]).pictures([39]))


@pytest.fixture(scope="module")
def encoded():
    return [encode(options=x264(), seed=seed) for seed in range(3)]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("size", [None, (16, 16)])
def test_cells_of_a_scene_are_those_of_its_decoded_videos(encoded, keep, size):
    whole = np.stack([decode_video(data, "video", size) for data in encoded])
    videos = SceneVideos(encoded, "one", FRAMES, size)
    assert videos.shape == whole.shape and videos.nbytes == whole.nbytes and videos.source_size == SIZE
    if keep:
        videos.keep()
    rng = np.random.default_rng(1)
    cells = rng.integers(3, size=20), rng.integers(FRAMES, size=20)
    source = videos[cells]
    np.testing.assert_array_equal(source, whole[cells])
    other = cells[0], rng.permutation(cells[1])
    np.testing.assert_array_equal(videos[other], whole[other])  # some of them are of the source
    part = videos[:, 5:30]
    assert part.shape == whole[:, 5:30].shape
    np.testing.assert_array_equal(part[np.array([2, 0]), np.array([0, 24])], whole[[2, 0], [5, 29]])


@pytest.mark.parametrize("keep", [False, True])
def test_clips_of_a_pair_are_decoded_together(encoded, monkeypatch, keep):
    scene = open_scene(recorded(encoded[0]))
    videos, whole = scene.videos, decode_scene(recorded(encoded[0]))
    if keep:
        videos.keep()
    made, opened, opening = converted(monkeypatch), [], decoding.opened
    monkeypatch.setattr(
        decoding, "opened", lambda data, **kwargs: opened.append(data) or opening(data, **kwargs)
    )
    shots = [Shot(np.zeros(4, int), np.array(times)) for times in ([0, 1, 2, 3], [3, 30, 1, 4])]
    pair = together(scene, lambda cells: [take(cells, shot) for shot in shots])
    assert len(made) == 6 and len(opened) == (2 if keep else 1)
    for one, shot in zip(pair, shots, strict=True):
        for name, array in take(whole, shot).items():
            np.testing.assert_array_equal(one[name], array, name)
    # Several clips as one array, of a view of some times.
    stacked = videos[:, 2:].pictures([videos[:, 2:].cells()[[[0, 1]], [[0, 5]]]])
    np.testing.assert_array_equal(stacked[0], whole.videos[[[0, 1]], [[2, 7]]])


def taken(monkeypatch) -> list[int]:
    """Numbers of the frames that decoders give to scenes which keep them from now on."""
    found, take_ = [], scene_videos._Store._take

    def noted(self, camera, number, frame):
        found.append(number)
        take_(self, camera, number, frame)

    monkeypatch.setattr(scene_videos._Store, "_take", noted)
    return found


def test_what_is_kept_is_decoded_once_and_only_as_far_as_it_is_needed(monkeypatch):
    monkeypatch.setattr(scene_videos, "_FEW", 8)
    data, opened, opening = encode(options={"g": "30"}), [], decoding.opened
    videos, found = SceneVideos([data], "one", FRAMES, None), taken(monkeypatch)
    monkeypatch.setattr(
        decoding, "opened", lambda data, **kwargs: opened.append(data) or opening(data, **kwargs)
    )
    videos.keep()
    whole = decode_video(data, "video")
    opened.clear()
    for wanted, count, times in (
        ([5, 2], 6, 1),
        ([4], 6, 1),
        ([6, 9], 10, 1),
        ([9, 15, 0], 16, 1),
        ([32], 26, 2),  # another part, of few frames: to its end
        ([39, 16], 27, 2),
        ([23], 40, 2),  # few frames are left of the first part
        (list(range(FRAMES)), 40, 2),
    ):
        pictures = videos[np.zeros(len(wanted), int), np.array(wanted)]
        np.testing.assert_array_equal(pictures, whole[wanted])
        assert (len(found), len(opened)) == (count, times), wanted
    assert sorted(found) == list(range(FRAMES))


def test_few_decoders_of_a_video_stay_open(monkeypatch):
    monkeypatch.setattr(scene_videos, "_FEW", 0)
    monkeypatch.setattr(scene_videos, "_OPEN", 2)
    data = encode(options=x264())
    videos, found, whole = (
        SceneVideos([data], "one", FRAMES, None),
        taken(monkeypatch),
        decode_video(data, "v"),
    )
    videos.keep()
    for first, count in ((0, 1), (12, 2), (24, 3 + 11), (13, 3 + 11 + 1), (36, 4 + 11 + 1 + 11)):
        np.testing.assert_array_equal(videos[np.zeros(1, int), np.array([first])], whole[[first]])
        assert len(videos._store._decoders[0]) <= 2 and len(found) == count


def test_a_kept_video_of_another_length_is_an_error_at_once():
    videos = SceneVideos([encode()], "one", FRAMES + 1, None)
    videos.keep()
    with pytest.raises(InputError, match="scene one, camera 0: 40 frames instead of 41"):
        videos[np.zeros(1, int), np.array([3])]


def recorded(data: bytes) -> dict:
    """A record of two cameras whose videos are `data`."""
    known = stored.record(data, cameras=2)
    moments = FRAMES // stored.TIMES + 1
    return known | {
        "scene": "one",
        "c2w": np.tile(known["c2w"], (1, moments, 1, 1))[:, :FRAMES],
        "animation_time": np.arange(FRAMES, dtype=np.float32),
    }


def test_pictures_are_kept_as_long_as_the_scenes_of_a_turn_find_room(encoded):
    records = [recorded(encoded[0]) | {"scene": f"scene {number}"} for number in range(4)]
    nbytes = 2 * FRAMES * SIZE[0] * SIZE[1] * 3
    for room, again, kept in ((2.5, True, True), (1.5, True, False), (2.5, False, False)):
        reader = SceneReader(records, Caching(3, room * nbytes, at_once=2, again=again))
        first = reader[0]
        assert first.videos.nbytes == nbytes and first.videos.keeps == kept
        assert reader[0] is first and reader[1] is not first
        reader[2]
        assert (reader[0] is first) == (not kept)  # otherwise two of three find room
        whole = decode_scene(records[0])
        for scene in (first, reader[0]):
            np.testing.assert_array_equal(scene.c2w, whole.c2w)
            shot = Shot(np.array([0, 1]), np.array([39, 20]))
            np.testing.assert_array_equal(take(scene, shot)["video"], take(whole, shot)["video"])
