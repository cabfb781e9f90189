"""What the readers of camera files share: what is known of a file, what a reader returns, and conversions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax import user_input
from stp_jax.errors import InputError

AXES, POSES = ("opencv", "opengl"), ("c2w", "w2c")  # what a user may say of a file
DISTANCE = 4.0  # metres from the source's first camera to what it looks at, where nothing is said
POSES_OF, NEW_VIDEO = "poses_of", "new_video"  # a field of JSON files that are written here, and its value
# From OpenGL's camera (x right, y up, z back), as Blender has it, to OpenCV's or back.
FLIP_CAMERA = np.diag([1.0, -1, -1, 1])

MIDDLE = 0.25  # of a picture's size to each side of its middle: what a camera looks at
_ROUNDED = 0.01  # of the length of a quaternion that is written with few digits


class Reading(NamedTuple):
    """What is known about a camera file beside its contents.

    Attributes:
      axes: of the camera, `opencv` (x right, y down, z forward) or `opengl` (x right, y up, z back). None: as
        the form of the file says, else `opencv`.
      poses: `c2w` (camera to world) or `w2c`. None: as the form of the file says, else `c2w`.
      video: height and width of the video that it belongs to, for intrinsics in pixels.
      official: the file is read for SpaceTimePilot's weights, whose `<video>_extrinsics.npy` have w2c. A name
        alone says nothing.
      inherited: axes and poses are those of another file, so that a form that states its own keeps them.
      frames: of the new video; for forms that are keys of a path, not poses.
      video_frames: of the video that it belongs to.
      distance: metres from the first camera to what it looks at, for forms that measure in it.
    """

    axes: str | None = None
    poses: str | None = None
    video: tuple[int, int] | None = None
    official: bool = False
    inherited: bool = False
    frames: int | None = None
    video_frames: int | None = None
    distance: float = DISTANCE


class Numbers(NamedTuple):
    """Where the poses of a file lie on its path, where it says so.

    Attributes:
      at: float64 [F], increasing: frame numbers or time stamps.
      frames: whether they are whole numbers of frames; otherwise times.
      first: the number of the video's first frame, where that is known.
    """

    at: np.ndarray
    frames: bool
    first: int | None = None


class CameraFile(NamedTuple):
    """The contents of a camera file, not yet checked."""

    where: str  # names it in errors
    poses: Any  # F matrices, 4 x 4 or 3 x 4
    form: str  # how the poses are read, to print
    intrinsics: Any = None  # see `lenses.read`
    size: tuple[float, float] | None = (
        None  # width and height of the picture that intrinsics in pixels are of
    )
    to_c2w: Callable[[np.ndarray], np.ndarray] = np.asarray  # float64 [F, 4, 4], of such poses
    motion_only: bool = False  # it says how the camera moves, not where it starts
    pose_per_frame: bool = False  # files of its form have a pose for each frame of a video, never key poses
    lens_form: str | None = None  # how intrinsics are read, to print, where `lenses.read` cannot know
    numbers: Numbers | None = None
    uses_distance: bool = False  # its path depends on `Reading.distance`
    own_convention: bool = False  # its form states axes and poses, so that no option changes them
    of_new_video: bool = False  # it says that its poses are of a new video, not of the source
    depth: float | None = None  # of what its first picture shows in the middle, in its own unit


class Content(NamedTuple):
    """A file that is loaded, but not yet understood.

    Attributes:
      where: its name, for messages.
      data: the value of a JSON file; the array of a .npy; `Arrays` of a .npz; `Rows` of a text; `Path` of the
        folder of a COLMAP model.
      camera: which of its cameras is chosen, see `camera_files.choice`.
    """

    where: str
    data: Any
    camera: int | None = None


class Arrays(NamedTuple):
    """A .npz: the arrays that any form needs, and of large ones the shapes, or what they have for frame 0."""

    of: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    firsts: Mapping[str, np.ndarray]


class Rows(NamedTuple):
    """A text of numbers in lines, without comments and empty lines.

    Attributes:
      of: float64 arrays, one for each line.
      lines: their line numbers, from 1.
      title: a first line that holds no numbers, as an address.
    """

    of: Sequence[np.ndarray]
    lines: Sequence[int]
    title: str = ""


class Format(NamedTuple):
    """One form of camera files.

    Attributes:
      title: what a user calls such files.
      summary: what they are and how they are read, for --list.
      matches: whether a content is of this form, by what it holds; the first of the table that does reads it.
      read: raises `InputError` for what is wrong in it.
      chooses: whether one of several cameras can be chosen by number.
    """

    title: str
    summary: str
    matches: Callable[[Content], bool]
    read: Callable[[Content, Reading], CameraFile]
    chooses: bool = False


def plain(file: CameraFile, reading: Reading) -> CameraFile:
    """A file that does not state its convention: camera-to-world in OpenCV axes, or what the user says."""
    axes, poses = reading.axes or AXES[0], reading.poses or POSES[0]

    def to_c2w(matrices: np.ndarray) -> np.ndarray:
        c2w = matrices if poses == "c2w" else np.linalg.inv(matrices)
        return c2w if axes == "opencv" else c2w @ FLIP_CAMERA

    order = "camera-to-world" if poses == "c2w" else "world-to-camera"
    name = {"opencv": "OpenCV", "opengl": "OpenGL"}[axes]
    prefix = f"{file.form}: " if file.form else ""
    return file._replace(form=f"{prefix}{order}, {name} axes, metres", to_c2w=to_c2w)


def stated(file: CameraFile, reading: Reading) -> CameraFile:
    """A file whose form has a convention of its own, which cannot be another."""
    for name, said in (("axes", reading.axes), ("poses", reading.poses)):
        if said is not None and not reading.inherited:
            raise InputError(f"{file.where}: is {file.form}; leave out the option that its {name} are {said}")
    return file._replace(own_convention=True)


def is_of_new_video(data: Mapping[str, Any]) -> bool:
    """Whether a file says that its poses are of the frames of a new video, as those of results do."""
    said = data.get(POSES_OF)
    return isinstance(said, str) and said == NEW_VIDEO


def of_opengl(c2w: np.ndarray) -> np.ndarray:
    """Camera-to-world poses in OpenGL axes -> OpenCV axes."""
    return c2w @ FLIP_CAMERA


def by_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts camera_2 before camera_10."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (-1, part) for part in parts]


def frame_numbers(names: Sequence[str]) -> Numbers | None:
    """The numbers at the ends of sorted file names, if these differ in nothing else."""
    found = [re.fullmatch(r"(.*?)(\d{1,15})", str(Path(name).with_suffix("")), re.DOTALL) for name in names]
    if not all(found) or len({one[1] for one in found if one}) != 1:
        return None
    at = np.array([int(one[2]) for one in found if one], np.float64)
    return Numbers(at, frames=True) if (np.diff(at) > 0).all() else None


def time_stamps(at: np.ndarray, where: str, entries: Sequence[str]) -> Numbers | None:
    """Times of poses; None where all are the same, as in files that have none.

    Args:
      entries: what each pose is called in messages.

    Raises:
      InputError: times do not increase.
    """
    at = np.asarray(at, np.float64)
    if (at == at[0]).all():
        return None
    later = np.diff(at) > 0
    if not later.all():
        i = int(np.argmin(later)) + 1
        what = "is that of the pose before it: remove one" if at[i] == at[i - 1] else ""
        what = what or f"comes after {at[i - 1]:.10g}: sort the poses by time"
        raise InputError(f"{where}: {entries[i]}: its time {at[i]:.10g} {what}")
    return Numbers(at, frames=False)


def refuse_twice(names: Sequence[str], where: str) -> None:
    """Raises `InputError` for a picture that has two poses, but where all have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and len(set(names)) > 1:
        name = twice[0] if twice[0].isprintable() and len(twice[0]) < 80 else user_input.short(twice[0])
        raise InputError(f"{where}: two of its poses are of {name}: remove one")


def rotations(quaternions: np.ndarray, where: str, entries: Sequence[str]) -> np.ndarray:
    """Rotation matrices [F, 3, 3] of quaternions x, y, z, w [F, 4], normalised where only digits are missing.

    Args:
      entries: what each of them is called in messages.

    Raises:
      InputError: naming the entry whose quaternion is not of length 1.
    """
    from scipy.spatial.transform import Rotation  # takes a while to import

    with np.errstate(all="ignore"):  # what overflows is refused
        lengths = np.linalg.norm(quaternions, axis=1)
    wrong = ~(np.abs(lengths - 1) <= _ROUNDED)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise InputError(
            f"{where}: {entries[i]}: a quaternion of length {lengths[i]:.4g}; a rotation's has length 1: "
            "divide it by its length, or check the order of the numbers"
        )
    return Rotation.from_quat(quaternions).as_matrix()


def rigid(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """[F, 3, 3] and [F, 3] -> [F, 4, 4]."""
    poses = np.tile(np.eye(4), (len(rotation), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotation, translation
    return poses


def depth_in_the_middle(depths: np.ndarray | None) -> float | None:
    """The median in the middle of a picture of depths [H, W], [H, W, 1] or [1, H, W]; None: none."""
    picture = np.empty(0) if depths is None else np.squeeze(depths).astype(np.float64)
    if picture.ndim != 2:
        return None
    height, width = picture.shape
    top, left = (int(length * (0.5 - MIDDLE)) for length in (height, width))
    middle = picture[top : height - top, left : width - left]
    known = middle[np.isfinite(middle) & (middle > 0)]
    return float(np.median(known)) if known.size else None


def picture_of(shape: Sequence[int]) -> tuple[float, float] | None:
    """Width and height of pictures [F, H, W, 3] or [F, 3, H, W], also with an axis of one more in front."""
    shape = tuple(shape[1:]) if len(shape) == 5 and shape[0] == 1 else tuple(shape)
    if len(shape) != 4:
        return None
    if shape[3] == 3:
        return float(shape[2]), float(shape[1])
    return (float(shape[3]), float(shape[2])) if shape[1] == 3 else None
