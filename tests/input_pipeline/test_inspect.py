"""Data sets are drawn and measured, and poses of a wrong convention are found by the pictures."""

import csv
import json

import numpy as np
import pytest
import synthetic
from PIL import Image
from scipy.spatial.transform import Rotation
from test_latent_batches import write_long_cache

from input_pipeline.datasets import shots
from input_pipeline.inspect import choice, command, conventions, epipolar, scenes
from input_pipeline.inspect.conventions import Place
from input_pipeline.inspect.epipolar import Pair
from stp_jax import media
from stp_jax.errors import InputError
from tests import textured_planes

SIZE = (textured_planes.HEIGHT, textured_planes.WIDTH)
OPENGL = np.diag([1.0, -1, -1, 1])
MINI = "stp_jax/assets/cam_x_time_mini"


# Geometry ---------------------------------------------------------------------------------------------------


def a_pair(seed, turn=0.1):
    """Two cameras with different lenses, and points [N, 3] before both."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, turn, (2, 3))).as_matrix()
    poses[:, :3, 3] = rng.normal(0, 0.5, (2, 3))
    lenses = np.array([[0.8, 1.1, 0.45, 0.55], [0.9, 1.2, 0.52, 0.48]])
    points = rng.uniform([-1.5, -1, 4], [1.5, 1, 9], (40, 3))
    return Pair(*poses, *lenses, (120, 160)), points


def seen(c2w, lens, points, size):
    """Closed form: where a camera sees points, in pixels."""
    x, y, z = np.linalg.inv(c2w)[:3] @ np.concatenate([points.T, np.ones((1, len(points)))])
    return np.stack([(lens[0] * x / z + lens[2]) * size[1], (lens[1] * y / z + lens[3]) * size[0]], 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_drawn_line_passes_through_the_true_point(seed):
    pair, points = a_pair(seed)
    first = seen(pair.first, pair.first_lens, points, pair.size)
    second = seen(pair.second, pair.second_lens, points, pair.size)
    assert epipolar.distances(pair, first, second, 3).max() < 1e-6
    drawn = 0
    for before, after in zip(first, second, strict=True):
        ends = epipolar.line_in_picture(epipolar.fundamental(pair) @ [*before, 1], pair.size)
        if not ((after > 0) & (after < [160, 120])).all():
            continue
        along = ends[1] - ends[0]
        off = (along[0] * (after - ends[0])[1] - along[1] * (after - ends[0])[0]) / np.hypot(*along)
        assert abs(off) < 1e-6
        on_edge = np.isclose(ends, 0, atol=1e-9) | np.isclose(ends, [160, 120])
        assert on_edge.any(1).all()
        drawn += 1
    assert drawn > 20
    shifted = second + [0, 5]
    assert np.median(epipolar.distances(pair, first, shifted, np.inf)) > 1


def test_cameras_in_one_place_see_a_point_instead_of_a_line():
    pair, points = a_pair(0)
    second = pair.second.copy()
    second[:3, 3] = pair.first[:3, 3]
    pair = pair._replace(second=second)
    first, after = (
        seen(c2w, lens, points, pair.size)
        for c2w, lens in ((pair.first, pair.first_lens), (pair.second, pair.second_lens))
    )
    assert epipolar.fundamental(pair) is None
    np.testing.assert_allclose(epipolar.transfer(pair, first), after, atol=1e-9)
    np.testing.assert_allclose(epipolar.distances(pair, first, after + [3, 4], 3), 5)


def test_what_is_behind_the_cameras_does_not_fit():
    """A camera that moves forward has the lines of one that moves backward."""
    pair, points = a_pair(1, turn=0)
    forward = np.eye(4)
    forward[2, 3] = 1
    pair = pair._replace(first=np.eye(4), second=forward)
    first = seen(pair.first, pair.first_lens, points, pair.size)
    second = seen(pair.second, pair.second_lens, points, pair.size)
    backward = pair._replace(second=np.linalg.inv(forward))
    assert epipolar.distances(pair, first, second, 1).max() < 1e-6
    assert epipolar.distances(backward, first, second, np.inf).max() < 1e-6
    assert np.isinf(epipolar.distances(backward, first, second, 1)).mean() > 0.8


def test_matches_that_fit_one_geometry_are_told_from_others():
    pair, points = a_pair(2)
    first = seen(pair.first, pair.first_lens, points, pair.size)
    second = seen(pair.second, pair.second_lens, points, pair.size)
    wrong = np.arange(40) % 4 == 0
    second[wrong] = np.random.default_rng(0).uniform(0, 120, (10, 2))
    fit = epipolar.estimate(first, second, 0.5, pair.size)
    assert fit[~wrong].mean() > 0.9 and fit[wrong].mean() <= 0.3


# Conventions ------------------------------------------------------------------------------------------------


def walk(frames=6):
    """c2w [1, F, 4, 4]: round a point 5 m ahead, rising, coming nearer and rolling a little, in any world."""
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    for pose, part in zip(c2w, np.linspace(-0.5, 0.5, frames), strict=True):
        turn = Rotation.from_euler("yxz", [-14 * part, 7 * part, 4 * part], degrees=True).as_matrix()
        pose[:3, :3] = turn
        pose[:3, 3] = np.array([0, 0, 5]) - turn @ [0, 0, 5 - 0.8 * part] - [0, 0.3 * part**2, 0]
    return c2w[None]


WORLD = np.eye(4)
WORLD[:3] = [[0.36, 0.48, -0.8, 5], [-0.8, 0.6, 0, 2], [0.48, 0.64, 0.6, 1]]


@pytest.fixture(scope="module")
def film():
    return textured_planes.film(walk()[0])


@pytest.fixture(scope="module")
def matched(film):
    pictures = {Place(0, time): picture for time, picture in enumerate(film)}
    pairs = [(Place(0, a), Place(0, b)) for a, b in ((0, 5), (0, 3), (2, 5), (1, 4))]
    found = conventions.match(pictures, pairs, moving=False)
    assert len(found) == 4 and all(one.fit.sum() > 40 for one in found)
    thin = []
    for one in found:  # fewer matches are faster
        chosen = np.flatnonzero(one.fit)[::3]
        thin.append(one._replace(first=one.first[chosen], second=one.second[chosen], fit=one.fit[chosen]))
    return thin


def relative(c2w):
    return np.linalg.inv(c2w[0, 0]) @ c2w


LENSES = np.broadcast_to(textured_planes.LENS, (1, 6, 4)).astype(float)
ROBOT = np.array([[0, -1.0, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # x forward, y left, z up
MIRROR = np.diag([1.0, -1, 1, 1])


@pytest.mark.parametrize("world", [np.eye(4), WORLD], ids=["first camera", "any"])
def test_right_poses_give_no_warning(matched, world):
    for c2w in (world @ walk(), relative(world @ walk())):
        verdict = conventions.judge(matched, (c2w, LENSES))
        assert verdict.known and not verdict.wrong and verdict.share > 0.95 and verdict.residual < 0.3
        assert verdict.text().startswith("poses fit: ")


@pytest.mark.parametrize(
    ("wrong", "named"),
    {
        "OpenGL read as OpenCV": (lambda c2w: c2w @ OPENGL, "cameras in OpenGL axes (y up, z backward)"),
        "w2c read as c2w": (np.linalg.inv, "world-to-camera poses"),
        "OpenGL, w2c": (
            lambda c2w: np.linalg.inv(c2w @ OPENGL),
            "world-to-camera poses of cameras in OpenGL axes (y up, z backward)",
        ),
        "inverted, then relative": (
            lambda c2w: relative(np.linalg.inv(c2w)),
            "world-to-camera poses, of which the first was taken for the world's frame",
        ),
        "robots' axes": (
            lambda c2w: c2w @ ROBOT,
            "camera-to-world poses of cameras with the axes x forward, y left, z up",
        ),
        "mirrored": (
            lambda c2w: MIRROR @ c2w @ MIRROR,
            "the axes x right, y up, z forward (a mirrored world)",
        ),
        "transposed": (conventions.transposed, None),
        "translations of w2c": (conventions.translations, None),
        "another order": (lambda c2w: c2w[:, ::-1], None),
        "shuffled": (lambda c2w: c2w[:, [3, 0, 5, 1, 4, 2]], ""),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_poses_are_named(matched, wrong, named):
    make, words = named
    poses = (WORLD @ walk(), LENSES)
    made = make(poses) if wrong in ("transposed", "translations of w2c") else (make(poses[0]), LENSES)
    verdict = conventions.judge(matched, made)
    assert verdict.wrong and verdict.share < 0.6 and verdict.text().startswith("WARNING: only ")
    if words == "":
        assert verdict.better is None and "no other usual convention fits" in verdict.text()
    else:
        assert verdict.better is not None and verdict.better[1] > 0.9
        assert words is None or words in verdict.better[0].name


def test_wrong_lenses_are_named(matched):
    shifted = LENSES + [0, 0, 0.12, -0.1]
    verdict = conventions.judge(matched, (walk(), shifted))
    assert verdict.wrong and verdict.better[0].name == "lenses with the principal point in the middle"


def test_axes_are_named_by_where_they_point():
    assert conventions.axes_text(np.eye(3)) == "x right, y down, z forward"
    assert conventions.axes_text(conventions.OPENGL) == "x right, y up, z backward"
    assert len(conventions.conventions()) == 12 + 2 * 46


def test_few_matches_are_no_verdict():
    verdict = conventions.judge([], (walk(), LENSES))
    assert not verdict.known and not verdict.wrong and "not checked" in verdict.text()
    grey = {Place(0, time): np.full((60, 80, 3), 90, np.uint8) for time in (0, 1)}
    assert conventions.match(grey, [(Place(0, 0), Place(0, 1))], moving=False) == []


# Choice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grid", "synchronised", "static", "single"])
@pytest.mark.parametrize(("cameras", "frames"), [(1, 1), (1, 2), (1, 300), (2, 2), (10, 81), (120, 120)])
def test_pictures_of_one_state_of_the_world_are_compared(kind, cameras, frames):
    cameras = 1 if kind == "single" else cameras
    pairs = choice.compared(kind, cameras, frames)
    assert len(pairs) == len(set(pairs)) and all(a != b for a, b in pairs)
    for a, b in pairs:
        assert 0 <= min(a.camera, b.camera) and max(a.camera, b.camera) < cameras
        assert 0 <= min(a.time, b.time) and max(a.time, b.time) < frames
        assert kind in ("static", "single") or a.time == b.time
    assert pairs or cameras == 1
    assert len({place.camera for pair in pairs for place in pair}) <= 14


# The command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(film, tmp_path_factory):
    """A data set of two static scenes; the axes of one were not said."""
    parent = tmp_path_factory.mktemp("inspect")
    for name, c2w in (("a_wrong", walk()[0] @ OPENGL), ("b_right", walk()[0])):
        (parent / "my" / name).mkdir(parents=True)
        media.write_video(parent / "my" / name / "walk.mp4", film, 10, crf=12, pixel_format="yuv444p")
        data = {"c2w": c2w.tolist(), "intrinsics": textured_planes.LENS.tolist()}
        (parent / "my" / name / "walk.json").write_text(json.dumps(data))
    (parent / "my" / "b_right" / "walk.txt").write_text("grey planes\n")
    shots.main(["--scenes", str(parent / "my"), "--out", str(parent / "built"), "--kind", "static"])
    return parent / "built"


def test_a_data_set_is_drawn_and_its_wrong_scene_named(built, tmp_path, capsys):
    command.main([str(built), "--scenes", "1", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "2 scenes (2 static)" in said and "captions: of 1 scenes" in said
    assert (
        "a_wrong: WARNING: only" in said and "if these are cameras in OpenGL axes (y up, z backward)" in said
    )
    assert "WARNING: the cameras of 1 of 1 scenes do not fit" in said
    names = {file.name for file in (tmp_path / "out").iterdir()}
    drawn = {f"scene_000000_{what}.png" for what in ("epipolar", "cameras")}
    assert names == {"contact_sheet.png", "figures.json", "scenes.csv", *drawn}
    for name in names:
        if name.endswith(".png"):
            assert np.asarray(Image.open(tmp_path / "out" / name).convert("L")).std() > 10
    read = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert [one["warning"] for one in read["poses"]] == [True]
    assert read["poses"][0]["fits_better"].startswith("cameras in OpenGL axes")
    rows = list(csv.DictReader((tmp_path / "out" / "scenes.csv").read_text().splitlines()))
    assert [row["scene"] for row in rows] == ["a_wrong", "b_right"] and rows[0]["frames"] == "6"


def test_figures_are_of_all_scenes_and_read_no_pictures(monkeypatch):
    monkeypatch.setattr("input_pipeline.decoding.decode_video", None)
    _, source = scenes.open_data(command.Path(MINI), None, "test")
    rows, damaged = command.measure(source, 3)
    assert [row["number"] for row in rows] == [0, 16, 31] and not damaged
    assert all((row["kind"], row["cameras"], row["frames"]) == ("grid", 17, 33) for row in rows)
    assert all(row["fps"] == 20 and row["size"] == "128 x 128" and not row["unusual"] for row in rows)


def test_a_latent_cache_is_drawn(tmp_path, capsys):
    write_long_cache(tmp_path / "cache" / "train")
    command.main([str(tmp_path / "cache"), "--scenes", "1", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "latent cache" in said and "2 scenes (2 latents), 24 videos or clips" in said
    assert "a latent cache has no pictures" in said
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"contact_sheet.png", "figures.json", "scenes.csv", "scene_000000_cameras.png"}


def test_damaged_scenes_are_counted():
    record = {
        "scene": b"a",
        "kind": b"static",
        "fps": 10.0,
        "metric": True,
        "videos": [b"none"],
        "captions": [],
    }
    record |= {"animation_time": np.arange(3.0), "c2w": np.tile(np.eye(4), (1, 3, 1, 1))}
    record |= {"intrinsics": np.tile([1, 1, 0.5, 0.5], (1, 1, 1))}
    with pytest.raises(InputError, match="scene a, camera 0: not a readable video"):
        scenes.of_record(record)
    rows, damaged = command.measure([record], None)
    assert rows == [] and "not a readable video" in damaged[0]
    command.print_summary(rows, damaged)


def test_mistakes_in_the_command(built, tmp_path, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit):
            command.main([str(one) for one in arguments])
        return capsys.readouterr().err

    assert "no such folder" in refused(tmp_path / "none")
    assert "neither a built data set nor a latent cache" in refused(tmp_path)
    assert "there is: train, test" in refused(MINI, "--split", "validation")
    assert "is not empty" in refused(built, "--out", built)
    for name in ("one", "two"):
        (tmp_path / "both" / name / "2.0.0").mkdir(parents=True)
        (tmp_path / "both" / name / "2.0.0" / "dataset_info.json").write_text("{}")
    assert "holds one, two: choose one with --kind" in refused(tmp_path / "both")


def test_pictures_are_made_smaller_as_a_whole():
    picture = np.zeros((1000, 1501, 3), np.uint8)
    assert conventions.smaller(picture).shape == (320, 480, 3)
    small = synthetic.scene().videos[0, 0]
    assert conventions.smaller(small) is small
