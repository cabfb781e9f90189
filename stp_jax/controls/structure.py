"""The camera path of a video by its features: structure from motion.

The optional package `pycolmap` is COLMAP (Schönberger and Frahm, Structure-from-motion revisited, 2016): SIFT
features, matches checked by two-view geometry, then incremental reconstruction with bundle adjustment.
With OpenCV, chaining of poses and bundle adjustment would be code of our own; pycolmap's wheels need nothing
but numpy. Where a camera only turns there is no parallax, and nothing to reconstruct. Rotations are then
averaged over all matched pairs, and translations are not known.

At 128 pixels features are too few and too coarse.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from stp_jax.errors import InputError

MIN_FRAMES = 3
_ALL_PAIRS = 33  # frames up to which every pair is matched; of longer videos those near in time
_MAX_ERROR = 2 / 832  # of the picture's width that a match may be off; at least a pixel
_MIN_MATCHES = 50  # of a pair, for its rotation to count: with fewer it was off by tens of degrees
_PARALLAX = 0.2  # share of the pairs that must show depth for a reconstruction
_MIDDLE = 0.25  # of the picture's size to each side of its middle: what a camera looks at
_FEW_POINTS = 10
_ATTEMPTS = 3  # with other random numbers, where half of the frames or fewer are placed


class CameraPath(NamedTuple):
    """The estimated cameras of F frames, relative to the first frame that was found."""

    c2w: np.ndarray  # float64 [F, 4, 4], OpenCV axes, translations up to one scale; NaN where not found
    found: np.ndarray  # bool [F]
    parallax: bool  # whether translations are known; otherwise they are NaN
    intrinsics: np.ndarray | None = None  # float64 [4], if the lens was estimated, too
    depth: float | None = None  # to what the first frame found has in its middle, in the translations' unit


class _Reconstruction(NamedTuple):
    poses: dict[int, np.ndarray]  # c2w [4, 4] by frame
    focal: float | None = None  # pixels
    depth: float | None = None


def installed() -> bool:
    return importlib.util.find_spec("pycolmap") is not None


def estimate(video: np.ndarray, intrinsics: np.ndarray, *, refine: bool = False) -> CameraPath:
    """The camera path of a video of a scene that mostly stands still.

    Where the camera only turns, rotations alone are found, for the frames that are connected by at least 50
    matches. So it is, too, where the camera moves but half of the frames or fewer can be reconstructed.

    Args:
      video: uint8 [F, H, W, 3]. Run time grows with the number of matched pairs: of 81 frames take every 4th.
      intrinsics: its lens, [4] or [F, 4], divided by width and height; taken as known.
      refine: the lens is a guess, [4] with square pixels: one focal length of the video is estimated, too,
        where the camera moves.

    Raises:
      InputError: fewer than three frames.
    """
    if len(video) < MIN_FRAMES:
        raise InputError(f"A camera path is estimated from {MIN_FRAMES} frames or more, not {len(video)}.")
    intrinsics = np.broadcast_to(np.asarray(intrinsics, np.float64), (len(video), 4))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        place = Path(folder)
        names = _match(place, video, intrinsics, refine)
        rotations, parallax = _pair_rotations(place, names)
        if parallax >= _PARALLAX:
            made = _Reconstruction({})
            for seed in range(_ATTEMPTS):
                if len(made.poses) <= len(video) / 2:
                    made = _reconstruct(place, names, refine, seed)
            if len(made.poses) > len(video) / 2:
                path = _path(made.poses, len(video), parallax=True)._replace(depth=made.depth)
                if made.focal is None:
                    return path
                height, width = video.shape[1:3]
                lens = np.array([made.focal / width, made.focal / height, *intrinsics[0, 2:]])
                return path._replace(intrinsics=lens)
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


def _match(place: Path, video: np.ndarray, intrinsics: np.ndarray, refine: bool) -> dict[int, int]:
    """Writes a database of features and checked matches; returns frame numbers by image id."""
    import pycolmap

    pictures, database = place / "pictures", place / "database.db"
    pictures.mkdir()
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(pictures / f"{number:06d}.png")
    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE" if refine else "PINHOLE")
    mode = pycolmap.CameraMode.SINGLE if refine else pycolmap.CameraMode.PER_IMAGE
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = 2048
    pycolmap.extract_features(
        database,
        pictures,
        camera_mode=mode,
        reader_options=reader,
        extraction_options=extraction,
    )
    height, width = video.shape[1:3]
    with contextlib.closing(pycolmap.Database.open(database)) as opened:
        names = {}
        for image in opened.read_all_images():
            names[image.image_id] = int(Path(image.name).stem)
            camera = opened.read_camera(image.camera_id)
            lens = intrinsics[names[image.image_id]] * [width, height, width, height]
            camera.params = lens[1:] if refine else lens
            camera.has_prior_focal_length = not refine
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


def _reconstruct(place: Path, names: dict[int, int], refine: bool, seed: int) -> _Reconstruction:
    """The largest reconstruction; empty if there is none."""
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions(
        ba_refine_focal_length=refine,
        ba_refine_extra_params=False,
        extract_colors=False,
        init_num_trials=50,
        min_model_size=MIN_FRAMES,
        multiple_models=False,
        random_seed=seed,
    )
    options.mapper.abs_pose_refine_focal_length = refine
    options.mapper.abs_pose_refine_extra_params = False
    options.mapper.init_min_num_inliers = 50
    options.mapper.init_min_tri_angle = 8.0  # degrees; halved where no pair has as much
    found = pycolmap.incremental_mapping(
        place / "database.db", place / "pictures", place / f"reconstruction_{seed}", options=options
    )
    best = _Reconstruction({})
    for reconstruction in found.values():
        images = {names[one.image_id]: one for one in reconstruction.images.values() if one.has_pose}
        if len(images) > len(best.poses):
            poses = {
                frame: np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]])
                for frame, image in images.items()
            }
            first = images[min(images)]
            camera = reconstruction.cameras[first.camera_id]
            depth = _depth(reconstruction, first, camera)
            best = _Reconstruction(poses, float(camera.params[0]) if refine else None, depth)
    return best


def _depth(reconstruction: Any, image: Any, camera: Any) -> float | None:
    """The median depth of the points in the middle of a picture; None: there are hardly any points."""
    to_camera = image.cam_from_world().matrix()
    pixels, depths = [], []
    for point in image.points2D:
        if point.has_point3D():
            pixels.append(point.xy / [camera.width, camera.height])
            depths.append(to_camera[2] @ [*reconstruction.points3D[point.point3D_id].xyz, 1])
    if len(depths) < _FEW_POINTS:
        return None
    middle = (np.abs(np.array(pixels) - 0.5) < _MIDDLE).all(1)
    return float(np.median(np.array(depths)[middle] if middle.sum() >= _FEW_POINTS else depths))


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
