"""The camera path of a video by its features, for videos without rendered ground truth.

The optional package `pycolmap` is COLMAP (Schönberger and Frahm, Structure-from-motion revisited, 2016): SIFT
features, matches checked by two-view geometry, then incremental reconstruction with bundle adjustment.
With OpenCV, chaining of poses and bundle adjustment would be code of our own; pycolmap's wheels need nothing
but numpy. Where a camera only turns there is no parallax, and nothing to reconstruct. Rotations are then
averaged over all matched pairs, and translations are not known.

The estimator is given the video and its lens, never the commanded path. Read its figures beside its own error
on videos of known cameras. At 128 pixels features are too few and too coarse.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from stp_jax.errors import InputError

NOT_INSTALLED = (
    "Camera paths by features are left out: pycolmap is not installed (pip install 'stp-jax[eval]')."
)
MIN_FRAMES = 3
MIN_TURN = 1.0  # degrees; a commanded path that turns less has no gain
_ALL_PAIRS = 33  # frames up to which every pair is matched; of longer videos those near in time
_MAX_ERROR = 2 / 832  # of the picture's width that a match may be off; at least a pixel
_MIN_MATCHES = 50  # of a pair, for its rotation to count: with fewer it was off by tens of degrees
_PARALLAX = 0.2  # share of the pairs that must show depth for a reconstruction


class CameraPath(NamedTuple):
    """The estimated cameras of F frames, relative to the first frame that was found."""

    c2w: np.ndarray  # float64 [F, 4, 4], OpenCV axes, translations up to one scale; NaN where not found
    found: np.ndarray  # bool [F]
    parallax: bool  # whether translations are known; otherwise they are NaN


class PathErrors(NamedTuple):
    """Errors of an estimated path; both paths are relative to the first frame found. NaN: not known."""

    rotation: np.ndarray  # float64 [F], degrees
    rotation_of_pairs: float  # degrees, mean over all pairs of frames
    achieved_angle: np.ndarray  # float64 [F], degrees from the first frame
    achieved_part: np.ndarray  # float64 [F], of the achieved rotation vector along the commanded one
    commanded_angle: np.ndarray  # float64 [F], degrees from the first frame
    gain: float  # achieved rotation for each degree commanded, see `gain_of`
    translation: np.ndarray  # float64 [F], metres of the commanded path, after a similarity fit


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.scale * points @ self.rotation.T + self.translation


def load() -> Callable[[np.ndarray, np.ndarray], CameraPath] | None:
    """The estimator, see `estimate`. None if `pycolmap` is not installed."""
    return None if importlib.util.find_spec("pycolmap") is None else estimate


def estimate(video: np.ndarray, intrinsics: np.ndarray) -> CameraPath:
    """The camera path of a video of a scene that mostly stands still.

    Where the camera only turns, rotations alone are found, for the frames that are connected by at least 50
    matches. So it is, too, where the camera moves but half of the frames or fewer can be reconstructed.

    Args:
      video: uint8 [F, H, W, 3]. Run time grows with the number of matched pairs: of 81 frames take every 4th.
      intrinsics: its lens, [4] or [F, 4], divided by width and height; taken as known.

    Raises:
      InputError: fewer than three frames.
    """
    if len(video) < MIN_FRAMES:
        raise InputError(f"A camera path is estimated from {MIN_FRAMES} frames or more, not {len(video)}.")
    intrinsics = np.broadcast_to(np.asarray(intrinsics, np.float64), (len(video), 4))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        place = Path(folder)
        names = _match(place, video, intrinsics)
        rotations, parallax = _pair_rotations(place, names)
        if parallax >= _PARALLAX:
            poses = _reconstruct(place, names)
            if len(poses) > len(video) / 2:
                return _path(poses, len(video), parallax=True)
    averaged = average_rotations(rotations, len(video))
    poses = {frame: _pose(rotation.T, np.full(3, np.nan)) for frame, rotation in averaged.items()}
    return _path(poses, len(video), parallax=False)


# With pycolmap --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import pycolmap

    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3  # a video in which nothing is found is no error
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _match(place: Path, video: np.ndarray, intrinsics: np.ndarray) -> dict[int, int]:
    """Writes a database of features and checked matches; returns frame numbers by image id."""
    import pycolmap

    pictures, database = place / "pictures", place / "database.db"
    pictures.mkdir()
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(pictures / f"{number:06d}.png")
    reader = pycolmap.ImageReaderOptions(camera_model="PINHOLE")
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = 2048
    pycolmap.extract_features(
        database,
        pictures,
        camera_mode=pycolmap.CameraMode.PER_IMAGE,
        reader_options=reader,
        extraction_options=extraction,
    )
    height, width = video.shape[1:3]
    with contextlib.closing(pycolmap.Database.open(database)) as opened:
        names = {}
        for image in opened.read_all_images():
            names[image.image_id] = int(Path(image.name).stem)
            camera = opened.read_camera(image.camera_id)
            camera.params = intrinsics[names[image.image_id]] * [width, height, width, height]
            camera.has_prior_focal_length = True
            opened.update_camera(camera)
    checks = pycolmap.TwoViewGeometryOptions(compute_relative_pose=True, detect_watermark=False)
    checks.ransac.max_error = max(1.0, _MAX_ERROR * width)
    checks.ransac.random_seed = 0
    if len(video) <= _ALL_PAIRS:
        pycolmap.match_exhaustive(database, verification_options=checks)
    else:
        pycolmap.match_sequential(database, verification_options=checks)
    return names


def _pair_rotations(
    place: Path, names: dict[int, int]
) -> tuple[dict[tuple[int, int], tuple[np.ndarray, int]], float]:
    """The pairs of frames between which the camera only turned, and the share of pairs with parallax.

    Of a pair (a, b): the rotation from a's camera to b's, and the number of matches. With parallax a pair's
    rotation is too uncertain without a reconstruction: on small videos it was off by many degrees.
    """
    import pycolmap

    kinds = pycolmap.TwoViewGeometryConfiguration
    flat = (kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC)
    with contextlib.closing(pycolmap.Database.open(place / "database.db")) as opened:
        pairs, geometries = opened.read_two_view_geometries()
    rotations, deep = {}, 0
    for pair, geometry in zip(pairs, geometries, strict=True):
        if geometry.cam2_from_cam1 is None or len(geometry.inlier_matches) < _MIN_MATCHES:
            continue
        if geometry.config not in flat:
            deep += 1
            continue
        first, second = (names[image] for image in pycolmap.pair_id_to_image_pair(pair))
        matrix = geometry.cam2_from_cam1.rotation.matrix()
        rotations[first, second] = (matrix, len(geometry.inlier_matches))
    return rotations, deep / max(deep + len(rotations), 1)


def _reconstruct(place: Path, names: dict[int, int]) -> dict[int, np.ndarray]:
    """c2w [4, 4] by frame, of the largest reconstruction; empty if there is none."""
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions(
        ba_refine_focal_length=False,
        ba_refine_extra_params=False,
        extract_colors=False,
        init_num_trials=50,
        min_model_size=MIN_FRAMES,
        multiple_models=False,
        random_seed=0,
    )
    options.mapper.abs_pose_refine_focal_length = False
    options.mapper.abs_pose_refine_extra_params = False
    options.mapper.init_min_num_inliers = 50
    options.mapper.init_min_tri_angle = 8.0  # degrees; halved where no pair has as much
    found = pycolmap.incremental_mapping(
        place / "database.db", place / "pictures", place / "reconstruction", options=options
    )
    poses: dict[int, np.ndarray] = {}
    for reconstruction in found.values():
        images = [image for image in reconstruction.images.values() if image.has_pose]
        if len(images) > len(poses):
            poses = {
                names[image.image_id]: np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]])
                for image in images
            }
    return poses


def _pose(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def _path(poses: dict[int, np.ndarray], frames: int, *, parallax: bool) -> CameraPath:
    c2w = np.full((frames, 4, 4), np.nan)
    for frame, pose in poses.items():
        c2w[frame] = pose
    found = np.isfinite(c2w[:, 0, 0])
    if found.any():
        first = c2w[np.argmax(found)].copy()  # rotation and translation apart: the latter may be NaN
        c2w[found, :3, 3] = (c2w[found, :3, 3] - first[:3, 3]) @ first[:3, :3]
        c2w[found, :3, :3] = first[:3, :3].T @ c2w[found, :3, :3]
    return CameraPath(c2w, found, parallax and bool(found.any()))


# Without pycolmap -----------------------------------------------------------------------------------------


def average_rotations(
    pairs: dict[tuple[int, int], tuple[np.ndarray, int]], frames: int
) -> dict[int, np.ndarray]:
    """World-to-camera rotations of the largest set of connected frames.

    A least-squares fit to all pairs, weighted by their matches, relaxed to an eigenvalue problem: the leading
    eigenvectors of the matrix of relative rotations (Arie-Nachimson et al., Global motion estimation from
    point matches, 2012).

    Args:
      pairs: (a, b): the rotation from a's camera to b's [3, 3], and its weight.
    """
    from scipy.sparse.csgraph import connected_components

    weights = np.zeros((frames, frames))
    for (a, b), (_, weight) in pairs.items():
        weights[a, b] = weights[b, a] = weight
    _, labels = connected_components(weights, directed=False)
    members = np.flatnonzero(labels == np.argmax(np.bincount(labels)))
    if len(members) < 2:
        return {}
    place = {int(frame): i for i, frame in enumerate(members)}
    blocks = np.zeros((len(members), 3, len(members), 3))
    degree = weights[members].sum(1)
    for (a, b), (rotation, weight) in pairs.items():
        if a in place and b in place:
            i, j = place[a], place[b]
            blocks[j, :, i] = weight * rotation / np.sqrt(degree[i] * degree[j])
            blocks[i, :, j] = blocks[j, :, i].T
    size = 3 * len(members)
    _, vectors = np.linalg.eigh(blocks.reshape(size, size))
    stacked = vectors[:, -3:].reshape(-1, 3, 3)
    stacked = stacked * np.sign(np.linalg.det(stacked[0]))
    u, _, vt = np.linalg.svd(stacked)
    return dict(zip(place, u @ vt, strict=True))


def rotation_vectors(rotations: np.ndarray) -> np.ndarray:
    """Rotation vectors, axis times angle in radians (at most pi): [..., 3, 3] -> [..., 3]; NaN for NaN."""
    from scipy.spatial.transform import Rotation

    vectors = np.full(rotations.shape[:-1], np.nan)
    known = np.isfinite(rotations).all((-1, -2))
    if known.any():
        vectors[known] = Rotation.from_matrix(rotations[known]).as_rotvec()
    return vectors


def angles(rotations: np.ndarray) -> np.ndarray:
    """Angles of rotations in degrees, 0 to 180: [..., 3, 3] -> [...]."""
    return np.degrees(np.linalg.norm(rotation_vectors(rotations), axis=-1))


def gain_of(achieved: np.ndarray, commanded: np.ndarray) -> float:
    """How far the camera turned for each commanded degree: 1 is right, 0 is no turn at all.

    The least-squares slope through the origin of achieved over commanded rotation vectors, so rotation about
    other axes does not count. Both must stay below 180 degrees from the first frame.

    Args:
      achieved, commanded: rotations relative to the same frame, [F, 3, 3]; NaN where not known.

    Returns:
      The gain; NaN where the commanded path turns less than MIN_TURN degrees.
    """
    a, c = rotation_vectors(achieved), rotation_vectors(commanded)
    known = np.isfinite(a).all(1) & np.isfinite(c).all(1)
    if not known.any() or np.degrees(np.linalg.norm(c[known], axis=1).max()) < MIN_TURN:
        return float("nan")
    return float(np.sum(a[known] * c[known]) / np.sum(c[known] ** 2))


def umeyama(points: np.ndarray, targets: np.ndarray) -> Similarity:
    """The similarity that brings points nearest to targets, both [N, 3], in least squares.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, 1991. Points
    that all coincide get scale 0.
    """
    points, targets = np.asarray(points, np.float64), np.asarray(targets, np.float64)
    centre, goal = points.mean(0), targets.mean(0)
    u, sizes, vt = np.linalg.svd((targets - goal).T @ (points - centre) / len(points))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    variance = np.mean(np.sum((points - centre) ** 2, axis=1))
    scale = float(sizes @ signs / variance) if variance else 0.0
    return Similarity(scale, rotation, goal - scale * rotation @ centre)


def compare(path: CameraPath, commanded: np.ndarray) -> PathErrors:
    """The errors of a path beside the commanded one.

    Args:
      commanded: c2w [F, 4, 4], in any world, metres.
    """
    commanded = np.asarray(commanded, np.float64)
    frames, unknown = len(commanded), float("nan")
    if not path.found.any():
        nothing = np.full(frames, unknown)
        return PathErrors(nothing, unknown, nothing, nothing, nothing, unknown, nothing)
    first = np.argmax(path.found)
    command = np.linalg.inv(commanded[first]) @ commanded
    achieved, wanted = path.c2w[:, :3, :3], command[:, :3, :3]
    pairs = _relative(achieved).swapaxes(-1, -2) @ _relative(wanted)
    upper = np.triu_indices(frames, 1)
    of_pairs = angles(pairs[upper])
    return PathErrors(
        rotation=angles(achieved.swapaxes(-1, -2) @ wanted),
        rotation_of_pairs=float(np.nanmean(of_pairs)) if np.isfinite(of_pairs).any() else unknown,
        achieved_angle=angles(achieved),
        achieved_part=_part_along(rotation_vectors(achieved), rotation_vectors(wanted)),
        commanded_angle=angles(wanted),
        gain=gain_of(achieved, wanted),
        translation=_translation_errors(path, command),
    )


def _part_along(achieved: np.ndarray, commanded: np.ndarray) -> np.ndarray:
    """Degrees [F] of rotation vectors [F, 3] in radians; 0 where none is commanded."""
    length = np.linalg.norm(commanded, axis=-1)
    return np.degrees(np.sum(achieved * commanded, -1) / np.maximum(length, 1e-12))


def _relative(rotations: np.ndarray) -> np.ndarray:
    """Rotations [F, 3, 3] -> the rotation between each two of them, [F, F, 3, 3]."""
    return rotations.swapaxes(-1, -2)[:, None] @ rotations[None]


def _translation_errors(path: CameraPath, command: np.ndarray) -> np.ndarray:
    errors = np.full(len(command), np.nan)
    if path.parallax:
        centres: Any = path.c2w[path.found, :3, 3]
        wanted = command[path.found, :3, 3]
        errors[path.found] = np.linalg.norm(umeyama(centres, wanted)(centres) - wanted, axis=1)
    return errors
