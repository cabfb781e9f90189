"""Folders and patterns of pictures: their order, what is missing, and what is said of it; stills."""

import numpy as np
import pytest
from PIL import Image

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.media import sequences, sources, stills


def write(folder, names, size=(24, 16)):
    """Grey pictures of level 10, 20, ... in the order of the names."""
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", size, (10 * i + 10,) * 3).save(folder / name, quality=95)
    return folder


def levels(path):
    return np.rint(media.read_video(path)[0].mean((1, 2, 3)) / 10).astype(int).tolist()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_folders_and_patterns(tmp_path, suffix):
    folder = write(tmp_path / "shot", [f"walk_{i:04d}.{suffix}" for i in range(8, 12)])
    (folder / "._walk_0008.png").write_text("of a Mac")
    (folder / "notes.txt").write_text("not a picture")
    for pattern in (
        "",
        f"walk_%04d.{suffix}",
        f"walk_####.{suffix}",
        f"walk_@.{suffix}",
        f"*.{suffix}",
        "w*",
    ):
        assert levels(folder / pattern if pattern else folder) == [1, 2, 3, 4], pattern
    found = sequences.find(f"{folder}/", fps=10)
    np.testing.assert_allclose(found.stamps(), [0, 0.1, 0.2, 0.3])
    assert found.notes == ()
    assert sequences.find(folder).notes == ("pictures at 24 a second; --fps says another rate",)
    clip = media.read_clip(found, 7, 16, 16)
    assert clip.fps == pytest.approx(20) and clip.source_frames == (0, 0, 1, 1, 2, 2, 3)


def test_numbers_count_not_letters(tmp_path):
    folder = write(tmp_path / "a", ["v2_9_left.png", "v2_10_left.png", "v2_11_left.png"])
    assert levels(folder) == levels(folder / "v2_#_left.png") == [1, 2, 3]
    assert levels(folder / "v2_##_left.png") == [2, 3]
    folder = write(tmp_path / "b", ["1.5.png", "2.25.png", "10.1.png"])
    assert levels(folder / "*.png") == [1, 2, 3]
    folder = write(tmp_path / "c", [f"{i}.png" for i in (100, 105, 110)])
    assert "every 5th number, as the files are" in sequences.find(folder).notes


def test_a_file_of_that_name_is_no_pattern(tmp_path):
    folder = write(tmp_path / "a", ["take #1.png", "take #2.png", "100%d.png"])
    for i, name in enumerate(("take #1.png", "take #2.png", "100%d.png")):
        assert levels(folder / name) == [i + 1]


@pytest.mark.parametrize(
    "names, pattern, message",
    [
        ([], "", "is a folder without pictures: give a video, or a folder of .png, .jpg"),
        (["a_1.png", "a_2.jpg"], "", "has .jpg and .png pictures: choose one kind, as '.*/a/\\*.jpg'"),
        (["a_1.png", "a_2.png", "b_1.png"], "", r"a_1.png and b_1.png are of different.*as '.*/a_#.png'"),
        (["a_1.png", "a_2.png", "thumb.png"], "", "a_1.png and thumb.png are of different sequences"),
        (["a_1_1.png", "a_2_7.png"], "", "differ in several numbers; '.*\\*.png' takes all in the order"),
        (
            ["a_1.png", "a_2.png", "a_5.png"],
            "",
            "number 3 is missing and 1 more, between a_2.png and a_5.png",
        ),
        (["a_1.png", "a_2.png", "a_4.png"], "a_#.png", "number 3 is missing, .*complete it; '.*/a_\\*.png'"),
        (["a_1.png", "a_01.png"], "", "have one number: remove one"),
        (["a_1.png"], "b_%d.png", "b_%d.png: no picture has such a name; its folder has a_1.png"),
        (["a_1.png"], "%d_%d.png", "has several placeholders"),
        (["a_1.png"], "%d/a.png", "only the name of the files may have a pattern"),
        (["a_1.png"], "nowhere/%d.png", "nowhere: the folder cannot be read"),
    ],
)
def test_mistakes_name_the_file(tmp_path, names, pattern, message):
    folder = write(tmp_path / "a", names)
    with pytest.raises(InputError, match=message) as caught:
        sources.stamps(f"{folder}/{pattern}")
    assert "\n" not in str(caught.value)


def test_other_sizes_and_damaged_pictures_are_named(tmp_path):
    folder = write(tmp_path / "a", ["1.png", "2.png", "3.png"])
    Image.new("RGB", (30, 16)).save(folder / "2.png")
    with pytest.raises(InputError, match=r"2\.png is 30 x 16, and 1\.png is 24 x 16: bring all"):
        media.read_clip(folder, 5, 16, 16)
    whole = (folder / "1.png").read_bytes()
    (folder / "2.png").write_bytes(whole[:40])
    with pytest.raises(InputError, match=r"a/2\.png is"):
        media.read_clip(folder, 5, 16, 16)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.jpg is truncated or damaged"):
        media.read_video(tmp_path / "cut.jpg")


def test_transparency_is_left_out_and_said(tmp_path):
    for i in range(2):
        Image.new("RGBA", (16, 16), (200, 0, 0, 0 if i else 255)).save(tmp_path / f"{i}.png")
    clip = media.read_clip(tmp_path, 2, 16, 16)
    assert clip.frames[0, 0, 0].tolist() == [200, 0, 0] and (clip.frames[1] == 255).all()
    assert "transparent parts are white: alpha is left out" in clip.notes


def test_a_still_stands_still(tmp_path):
    folder = write(tmp_path / "a", ["1.png", "2.png"], size=(32, 16))
    assert sources.is_still(folder / "1.png") and not sources.is_still(folder)
    clip = stills.read_still(folder / "1.png", 5, 16, 16)
    assert clip.frames.shape == (5, 16, 16, 3) and (clip.frames == 10).all()
    assert clip.source_size == (16, 32) and clip.source_frames == (0,) * 5 and clip.fps == 16
    assert clip.notes == ("2.png beside it is left out: for a sequence give its folder or a pattern",)
    assert stills.read_still(folder / "2.png", 5, 16, 16, fps=30).notes == ()
    (folder / "1.png").unlink()
    assert sources.is_still(folder)
    media.write_video(tmp_path / "one.mp4", clip.frames[:1], 10)
    assert not sources.is_still(tmp_path / "one.mp4")


def test_titles_are_short():
    assert sequences.title("a/b.mp4") == "b.mp4"
    assert sequences.title("a/walk_####.png") == "walk" == sequences.title("walk/%04d.png")
