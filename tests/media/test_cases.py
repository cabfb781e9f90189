"""Files that phones, editors and cameras write, with the pictures that they must give (tests/media/cases)."""

from pathlib import Path

import numpy as np
import pytest

from stp_jax import media

CASES = Path(__file__).parent / "cases"
R, G, B, Y = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
QUADRANTS = {  # as seen on a screen: upper left, upper right, lower left, lower right
    "q_plain": (R, G, B, Y),
    "q_rot90cw": (B, R, Y, G),
    "q_hflip": (G, R, Y, B),
    "q_transpose": (R, B, G, Y),
}
#: 4 x 2 patches of 320 x 360 pixels
PATCHES = [
    [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 180, 140)],
    [(128, 128, 128), (16, 16, 16), (240, 240, 240), (0, 120, 180)],
]
#: levels by which they may be off, and what must be said of them
COLOURS = {
    "c_709_tag_720": (4, None),
    "c_709_untagged_720": (4, "no colour tags: read as BT.709"),
    "hdr_hlg": (12, "HDR (HLG, BT.2020) tone-mapped"),
}


@pytest.mark.parametrize("name", QUADRANTS)
def test_display_matrices_turn_and_mirror(name):
    frames, _ = media.read_video(CASES / f"{name}.mp4", max_frames=1)
    upright = name in ("q_plain", "q_hflip")
    height, width = (96, 160) if upright else (160, 96)
    assert frames.shape[1:3] == (height, width)
    seen = frames[0, height // 4 :: height // 2, width // 4 :: width // 2].reshape(4, 3)
    np.testing.assert_allclose(seen, QUADRANTS[name], atol=4)
    clip = media.read_clip(CASES / f"{name}.mp4", 5, 16, 16)
    mirrored = name in ("q_hflip", "q_transpose")
    assert clip.source_size == (height, width) and ("mirrored" in " ".join(clip.notes)) == mirrored


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_those_that_were_filmed(name):
    levels, said = COLOURS[name]
    clip = media.read_clip(CASES / f"{name}.mp4", 2, 720, 1280)
    seen = clip.frames[0, 180::360, 160::320].astype(int)
    np.testing.assert_allclose(seen, PATCHES, atol=levels)
    remarks = " ".join(clip.notes)
    assert said in remarks if said else "tags" not in remarks and "HDR" not in remarks
