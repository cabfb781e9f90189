"""Lenses of files: normalised or in pixels, four numbers or matrices, one or one for each frame."""

import numpy as np
import pytest

from stp_jax.controls import lenses
from stp_jax.errors import InputError

F = 3
LENS = [0.78125, 1.38889, 0.5, 0.5]
PIXELS = [1500, 1500, 960, 540]


def matrix(fx, fy, cx, cy):
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (LENS, "intrinsics divided by width and height"),
        ([LENS] * F, "intrinsics divided by width and height"),
        (matrix(*LENS), "3 x 3 matrices divided by width and height"),
        (PIXELS, "intrinsics in pixels of 1920 x 1080 (twice the principal point)"),
        ([PIXELS] * F, "intrinsics in pixels of 1920 x 1080 (twice the principal point)"),
        (matrix(*PIXELS), "3 x 3 matrices in pixels of 1920 x 1080 (twice the principal point)"),
        ([matrix(*PIXELS)] * F, "3 x 3 matrices in pixels of 1920 x 1080 (twice the principal point)"),
        (np.array([matrix(*PIXELS)] * F, np.float32), "3 x 3 matrices in pixels of 1920 x 1080"),
    ],
)
def test_every_form_is_one_lens(value, form):
    lens = lenses.read(value, F, "a.json")
    np.testing.assert_allclose(lens.intrinsics, [LENS] * F, rtol=1e-5)
    assert lens.form.startswith(form)


@pytest.mark.parametrize(
    ("centre", "stated", "video", "size", "whence"),
    [
        ((960, 540), (2000, 1000), (1080, 1920), (2000, 1000), "the file's size"),
        ((960, 540), None, (90, 160), (1920, 1080), "twice the principal point"),
        ((970, 530), None, (1080, 1920), (1920, 1080), "the video's size"),  # a little beside the middle
        ((970, 530), None, (90, 160), (1940, 1060), "twice the principal point"),
    ],
)
def test_the_picture_of_pixels(centre, stated, video, size, whence):
    lens = lenses.read([1500, 1500, *centre], F, "a.json", stated=stated, video=video)
    np.testing.assert_allclose(lens.intrinsics[0], np.array([1500, 1500, *centre]) / [*size, *size])
    assert f"{size[0]} x {size[1]} ({whence})" in lens.form


def test_a_principal_point_that_moves_is_of_the_video_s_picture():
    rows = [[100, 100, 30 + 5 * i, 20] for i in range(F)]
    lens = lenses.read(rows, F, "a.json", video=(48, 80))
    np.testing.assert_allclose(lens.intrinsics, np.array(rows) / [80, 48, 80, 48])
    assert "80 x 48 (the video's size)" in lens.form


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1500, 1500, 0.5, 0.5], "frame 0: neither divided by width and height nor in pixels"),
        ([1, 1, 960, 0.5], "neither divided by width and height nor in pixels"),
        ([LENS, PIXELS, LENS], "frame 1: in pixels, unlike other frames"),
        ([PIXELS, PIXELS, LENS], "frame 2: not in pixels, unlike other frames"),
        ([0, 1, 0.5, 0.5], "frame 0: the focal lengths must be positive"),
        ([[1500, 5, 960], [0, 1500, 540], [0, 0, 1]], "lenses with skew are not supported"),
        (np.transpose(matrix(*PIXELS)), "the matrix' last row is not 0 0 1; is it transposed"),
        ([1e6, 1e6, 960, 540], "frame 0: do not fit a picture of 1920 x 1080"),
        ([LENS] * 2, r"of shape \[2, 4\]; expected \[3, 4\]"),
        ([1, 2, 3], "frame 0: expected 4 numbers, found shape"),
        ("lens", "expected a list"),
        (np.array(3.0), "expected a list"),
        ({"fx": 1}, "expected a list"),
        ([np.nan, 1, 0.5, 0.5], "NaN or infinite"),
    ],
)
def test_other_lenses_are_refused_by_name(value, message):
    with pytest.raises(InputError, match=f"a.json: intrinsics.*{message}"):
        lenses.read(value, F, "a.json")


def test_sizes_of_files():
    assert lenses.stated_size({"w": 1920, "h": np.array(1080.0)}, "a") == (1920, 1080)
    assert lenses.stated_size({"width": 4, "height": 3, "w": 1}, "a") == (4, 3)
    assert lenses.stated_size({"width": 4}, "a") is None
    for wrong in (0, -5, "4", None, float("nan"), [4, 4], 1e9):
        with pytest.raises(InputError, match='"width" and "height" must be'):
            lenses.stated_size({"width": 4, "height": wrong}, "a")
