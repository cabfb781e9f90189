"""Readers of what a user directs with: camera files, clocks, and the files of numbers behind both."""

import io
import json
import random
import re
import struct
import zipfile
from pathlib import Path

import numpy as np

from tests.fuzz import mutators
from tests.fuzz.inputs import Reader, Seed

F = 9


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(compressed: bool, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy_header(data: bytes, draw: random.Random) -> bytes:
    """Writes another type, shape, order, or anything else into the header of a .npy."""
    if len(data) < 10 or not data.startswith(b"\x93NUMPY"):
        return mutators.set_bytes(data, draw)
    length = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    types = ("<f4", ">f8", "<i1", "|b1", "|O", "<U99999999", "<c16", "<f2", "|V8", "<M8[s]", "<f16", "", "x")
    shapes = ("()", "(-1,)", "(0, 4, 4)", "(9,)", "(9, 16)", "(3, 4, 4)", f"({10**12}, 4, 4)", f"({10**30},)")
    changes = (
        lambda: re.sub(r"'descr': '[^']*'", f"'descr': '{draw.choice(types)}'", header),
        lambda: re.sub(
            r"\([^)]*\)", draw.choice((*shapes, "(1.5,)", "7", "(((", "[9, 4, 4]", "(9L,)")), header
        ),
        lambda: header.replace("False", draw.choice(("True", "None", "0", "'"))),
        lambda: header.replace(draw.choice(("descr", "shape", "fortran_order", "'", ":", "}", ",")), "", 1),
        lambda: draw.choice(("(" * 900, "{" * 900, "'" * 3, "\0", "9" * 900, "-" * 900, "{}", "lambda: 0")),
    )
    new = draw.choice(changes)().encode("latin-1")
    return data[:8] + struct.pack("<H", min(len(new), 65535)) + new + rest


def zip_members(data: bytes, draw: random.Random) -> bytes:
    """Puts other content into an archive: a mutated array, many members, zeros that unpack to 100 MB."""
    buffer = io.BytesIO()
    arrays = {"c2w": _npy(np.tile(np.eye(4), (F, 1, 1))), "intrinsics": _npy(np.array([1, 1, 0.5, 0.5]))}
    kind = draw.randrange(5)
    with zipfile.ZipFile(buffer, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in arrays.items():
            if kind < 3:
                content = draw.choice((npy_header, *mutators.BYTES))(content, draw)
            archive.writestr(f"{name}.npy", content)
        if kind == 3:
            archive.writestr(draw.choice(("width.npy", "c2w.npy", "w.npy", "a")), _npy(np.arange(3)))
        if kind == 4:
            for i in range(draw.choice((3, 300, 3000))):
                archive.writestr(f"{i}.npy", b"")
    return buffer.getvalue()


def _poses() -> list:
    from stp_jax.controls import cameras

    return cameras.preset("spiral_left:40:-20", F).c2w.astype(float).tolist()


def _camera_json_seeds(work: Path) -> list[Seed]:
    c2w = _poses()
    matrix = [[1500, 0, 960], [0, 1500, 540], [0, 0, 1]]
    named = {f"camera_{i:03d}": pose for i, pose in enumerate(c2w)}
    rows = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [100 200 300 1] "
    contents = [
        {"c2w": c2w},
        {"c2w": c2w, "intrinsics": [1.0, 1.0, 0.5, 0.5]},
        {"c2w": c2w, "intrinsics": [[1500, 1500, 960, 540]] * F, "width": 1920, "height": 1080},
        {"c2w": c2w, "intrinsics": [matrix] * F, "w": 1920, "h": 1080},
        {"convention": "opencv w2c, metres", "cameras": {"extrinsic": named}},
        {"cameras": {"extrinsic": named}},
        {f"frame{i}": {"cam01": rows, "cam05": rows} for i in range(F)},
    ]
    return [Seed({"a.json": json.dumps(one).encode()}, "a.json", mutators.JSON) for one in contents]


def _camera_array_seeds(work: Path) -> list[Seed]:
    c2w, lens = np.array(_poses()), np.array([1.0, 1, 0.5, 0.5])
    arrays = (*mutators.BYTES, npy_header, npy_header, npy_header)
    archives = (*mutators.BYTES, zip_members, zip_members)
    return [
        Seed({"a.npy": _npy(c2w)}, "a.npy", arrays),
        Seed({"a_extrinsics.npy": _npy(c2w.astype(np.float32))}, "a_extrinsics.npy", arrays),
        Seed({"a.npz": _npz(False, c2w=c2w, intrinsics=lens)}, "a.npz", archives),
        Seed({"a.npz": _npz(True, c2w=c2w, width=np.array(19), height=np.array(10))}, "a.npz", archives),
    ]


def _foreign_seeds(work: Path) -> list[Seed]:
    """Files of other programs, as the tests of the readers write them; each file of a form is mutated."""
    from tests.controls import camera_writers

    groups = {".json": mutators.JSON, ".txt": mutators.TEXT, ".bin": mutators.BYTES, ".npy": mutators.BYTES}
    groups[".npz"] = (*mutators.BYTES, zip_members)
    c2w, seeds = np.array(_poses()), []
    for number, writer in enumerate(camera_writers.ALL):
        place = work / str(number)
        place.mkdir()
        writer(place, c2w, (100.0, 80.0, 45.0), (160, 90))
        files = {str(one.relative_to(place)): one.read_bytes() for one in place.rglob("*") if one.is_file()}
        seeds += [Seed(files, name, groups[Path(name).suffix]) for name in files]
    keys = b"0 2 10 15 12 0\n0 -3 -10 -20 0\n0 0.02 0.2\n"
    return [*seeds, Seed({"keys.txt": keys}, "keys.txt", mutators.TEXT)]


def _read_foreign(folder: Path) -> None:
    """What a user would give of the files in a folder."""
    from stp_jax.controls import cameras

    files = sorted(one for one in folder.rglob("*") if one.is_file() and one.stem != "cameras")
    pose = [one for one in files if one.parent.name == "pose"] or files
    cameras.load(pose[0], reading=cameras.Reading(video=(90, 160), frames=5, video_frames=F))


def _read_cameras(folder: Path) -> None:
    """As for the source and for the target: with each option, and with a camera chosen."""
    from stp_jax.controls import cameras
    from stp_jax.errors import InputError

    (path,) = folder.iterdir()
    errors, read = [], False
    for reading in (
        cameras.Reading(video=(90, 160)),
        cameras.Reading("opengl", "w2c"),
        cameras.Reading(official=True),
    ):
        for name in (path, f"{path}:cam05"):
            try:
                cameras.parse(name, F, reference=np.eye(4), source="source.npz", reading=reading)
                cameras.read(name, 3, reading=reading)
                read = True
            except InputError as error:
                errors.append(error)
    if not read:
        raise errors[0]


def _clock_seeds(work: Path) -> list[Seed]:
    times = [i * 0.75 for i in range(F)]
    keys = ", ".join(f"{i}:{i / 2}" for i in range(0, F, 2))
    array = (*mutators.BYTES, npy_header, npy_header)
    return [
        Seed({"a.npy": _npy(np.array(times))}, "a.npy", array),
        Seed({"a.json": json.dumps(times).encode()}, "a.json", mutators.JSON),
        Seed({"a.json": json.dumps({"animation_time": times}).encode()}, "a.json", mutators.JSON),
        Seed({"a.txt": "\n".join(map(str, times)).encode()}, "a.txt", mutators.TEXT),
        Seed({"a.csv": ", ".join(map(str, times)).encode()}, "a.csv", mutators.TEXT),
        Seed({"a.csv": keys.replace(", ", "\n").encode()}, "a.csv", mutators.TEXT),
    ]


def _read_clock(folder: Path) -> None:
    from stp_jax.controls.animation_time import curve

    (path,) = folder.iterdir()
    times = curve(path, F)
    assert np.all((times >= 0) & (times <= F - 1))


def _spec_seeds(work: Path) -> list[Seed]:
    cameras = (
        "orbit_left:30:-15",
        "dolly_in:1.5",
        "zoom_in:2:0.5",
        "static",
        "recammaster:7",
        "orbit_left:30 50%, hold, dolly_zoom_in:1 ease_in",
    )
    clocks = (
        "0:0, 4:4, 6:4, 8:8",
        "bullet_time:3",
        "zigzag",
        "ramp:0.1",
        "0%:0%, 50%:25%",
        "official:zigzag_0_10_0",
    )
    texts = [
        f"{kind}\n{text}".encode()
        for kind, all_of in (("camera", cameras), ("clock", clocks))
        for text in all_of
    ]
    return [Seed({"spec": text}, "spec", mutators.TEXT) for text in texts]


def _read_spec(folder: Path) -> None:
    """A camera and an animation time as they are written on a command line."""
    from stp_jax.controls import cameras
    from stp_jax.official import time_patterns

    kind, _, text = (folder / "spec").read_bytes().decode("utf-8", "surrogateescape").partition("\n")
    if kind == "clock":
        assert np.all(np.isfinite(time_patterns.curve(text, 81)))
    else:
        path = cameras.parse(text, F)
        cameras.check(path.c2w, path.intrinsics, F, "preset")


def _keyframe_seeds(work: Path) -> list[Seed]:
    examples = Path(__file__).parents[3] / "examples"
    pose, quaternion = _poses()[3], [0.6, 0, 0.8, 0]
    look = {"position": [1, 0, 0], "look_at": [0, 0, 4], "up": [0, -1, 0], "roll": 3}
    keys = [
        {"time": 0, "camera": {"c2w": pose}, "intrinsics": [1, 1, 0.5, 0.5], "to_next": {"lens": "hold"}},
        {"time": "25%", "camera": {"position": [0, 0, 1], "quaternion_wxyz": quaternion}, "to_next": "ease"},
        {"time": "0.5s", "camera": look, "focal_length": 35, "animation_time": "0.2s"},
        {"time": 8, "camera": {"orbit": {"left": 20, "around": [0, 0, 4]}}, "fov": 40, "animation_time": 8},
    ]
    contents = [json.dumps({"version": 1, "world": "source_cameras", "keyframes": keys}).encode()]
    contents += [path.read_bytes() for path in sorted(examples.glob("*.json"))]
    return [Seed({"a.json": one}, "a.json", mutators.JSON) for one in contents]


def _read_keyframes(folder: Path) -> None:
    """What is read can be written, read again, and made into cameras and a clock."""
    from stp_jax.controls import cameras, keyframe_tracks, keyframes
    from stp_jax.controls.times import Rates

    (path,) = folder.iterdir()
    read = keyframes.read(path)
    assert keyframes.parse(json.loads(json.dumps(keyframes.to_json(read)))) == read
    filmed = keyframe_tracks.Filmed(np.eye(4), 4.0, 1.5, Rates(10.0, 10.0))
    made = keyframe_tracks.resolve(read, F, filmed, "keys.json")
    if made.c2w is not None:
        lens = np.ones((F, 4)) if made.intrinsics is None else made.intrinsics
        cameras.check(made.c2w, lens, F, "keys.json")
    if made.animation_time is not None:
        assert np.all((made.animation_time >= 0) & (made.animation_time <= F - 1))


READERS = [
    Reader("camera_json", _camera_json_seeds, _read_cameras),
    Reader("camera_arrays", _camera_array_seeds, _read_cameras),
    Reader("foreign_cameras", _foreign_seeds, _read_foreign),
    Reader("clocks", _clock_seeds, _read_clock),
    Reader("camera_and_clock_texts", _spec_seeds, _read_spec),
    Reader("keyframes", _keyframe_seeds, _read_keyframes),
]
