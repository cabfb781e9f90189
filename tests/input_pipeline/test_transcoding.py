"""Videos that are encoded anew at the conversion: what they show, and what the data set says of it."""

import json

import numpy as np
import pytest
import stored
from stored import Stored
from test_decoding import encode, x264

from input_pipeline.datasets import records
from input_pipeline.datasets.building import Options
from input_pipeline.datasets.reading import open_records
from input_pipeline.datasets.transcoding import Transcoding
from input_pipeline.decoding import VideoFrames, decode_video
from input_pipeline.fitting import fit_lenses
from input_pipeline.shots import decode_scene
from stp_jax.errors import InputError


@pytest.fixture(scope="module")
def known():
    """A record of two cameras, 9 frames of 96 x 64 with one key frame."""
    return stored.record(encode(options=x264() | {"g": "250"}, frames=stored.TIMES, block=16))


def build(path, known, how, **options):
    scene = stored.write(path / "scenes" / "one", known)
    out = path / "out"
    return records.build(Stored, out, {"train": [scene]}, Options(transcoding=how, **options))


@pytest.mark.parametrize("size", [None, (32, 40), (128, 32)])
def test_pictures_and_lenses_are_those_of_training_in_short_steps(tmp_path, known, size):
    folder = build(tmp_path, known, Transcoding(size, gop=4, crf=4))
    record = open_records(folder, "stored", "train")[0]
    kept = (64, 96) if size in (None, (128, 32)) else size  # pictures are not enlarged
    expected = decode_video(known["videos"][0], "video", kept)
    scene = decode_scene(record)
    assert scene.videos.shape == (2, *expected.shape)
    assert np.abs(scene.videos[0].astype(int) - expected).mean() < 10  # of noise; 40 elsewhere in it
    np.testing.assert_allclose(
        record["intrinsics"], fit_lenses(known["intrinsics"], (64, 96), kept), rtol=1e-6
    )
    video = VideoFrames(record["videos"][1], "video", stored.TIMES, kept, None)
    assert [[n for n, _ in video.part(number)] for number in (3, 4, 8)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    said = json.loads((folder / "metadata.json").read_text())["transcoded"]
    height, width = size or (None, None)
    assert said == {"codec": "h264", "height": height, "width": width, "gop": 4, "crf": 4}


def test_without_it_videos_are_as_they_were(tmp_path, known):
    folder = build(tmp_path, known, None)
    assert list(open_records(folder, "stored", "train")[0]["videos"]) == known["videos"]
    assert not (folder / "metadata.json").exists()


def test_full_colour_and_odd_sizes_are_kept(tmp_path):
    data = encode(options={"g": "250"}, size=(64, 96), frames=stored.TIMES)
    record = stored.record(data)
    folder = build(tmp_path, record, Transcoding((33, 41)))
    assert decode_scene(open_records(folder, "stored", "train")[0]).videos.shape[2:4] == (33, 41)


def test_depth_stays_with_pictures_of_their_size(tmp_path, known):
    depth = np.random.default_rng(0).random((2, stored.TIMES, 8, 12)).astype(np.float16)
    with pytest.raises(InputError, match="one: has depth, which is not resized .* leave out --size"):
        build(tmp_path / "smaller", known | {"depth": depth}, Transcoding((32, 48)), strict=True)
    for size in (None, (64, 96), (128, 128)):
        folder = build(tmp_path / str(size), known | {"depth": depth}, Transcoding(size))
        np.testing.assert_array_equal(open_records(folder, "stored", "train")[0]["depth"], depth)


def test_a_build_that_was_begun_otherwise_is_not_continued(tmp_path, known):
    broken = known | {"videos": [known["videos"][0], b"none"]}
    with pytest.raises(InputError, match="not a readable video"):
        build(tmp_path, broken, Transcoding(gop=4), strict=True)
    with pytest.raises(InputError, match="other --transcode"):
        build(tmp_path, broken, Transcoding(gop=5), strict=True)


def test_flags(tmp_path):
    parse = records.arguments("").parse_args
    given = ["--scenes", "a", "--out", "b"]
    assert records.options(parse(given)).transcoding is None
    assert records.options(parse([*given, "--transcode"])).transcoding == Transcoding(None, 8, 16)
    flags = ["--transcode", "--size", "832", "480", "--gop", "4", "--crf", "20"]
    assert records.options(parse([*given, *flags])).transcoding == Transcoding((480, 832), 4, 20)
    for flags, message in (
        (["--gop", "4"], "--gop: only with --transcode"),
        (["--transcode", "--crf", "52"], "--crf 52: must be 0 to 51"),
    ):
        with pytest.raises(InputError, match=message):
            records.options(parse([*given, *flags]))
