"""Files of numbers that lie about their size, or are not what their name says."""

import io
import json
import os
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from stp_jax import user_input
from stp_jax.errors import InputError

TYPES = (".npy", ".npz", ".json", ".txt")


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


def described(shape: str, kind: str = "<f8", order: str = "False") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}"


LYING = {
    "truncated": npy(described("(4, 4, 4)"), bytes(100)),
    "a huge shape": npy(described("(1000000, 1000000, 1000000)"), bytes(100)),
    "a shape beyond 64 bits": npy(described(f"({10**30},)"), bytes(100)),
    "a negative shape": npy(described("(-4, 4)"), bytes(128)),
    "a shape of fractions": npy(described("(1.5,)"), bytes(128)),
    "objects": npy(described("(2,)", "|O"), bytes(128)),
    "texts": npy(described("(2,)", "<U1000000"), bytes(128)),
    "an open bracket": npy("{'descr': '<f8', 'shape': (1,", bytes(128)),
    "an open string": npy("{'descr': '<f8", bytes(128)),
    "nested brackets": npy("(" * 9000, bytes(128)),
    "a long header": npy(" " * 60000, bytes(128)),
    "another version": npy(described("(2,)"), bytes(128), version=9),
    "a number": npy("7", bytes(128)),
}


@pytest.mark.parametrize("name", LYING)
def test_arrays_that_lie_are_refused_before_anything_is_allocated(tmp_path, name):
    path = tmp_path / "a.npy"
    path.write_bytes(LYING[name])
    tracemalloc.start()
    try:
        with pytest.raises(
            InputError, match=r"a.npy: (is not a valid .npy file|an array of .* is too large)"
        ):
            user_input.load(path, TYPES)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f8", ">f4", "<i2", "<f2"])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, kind, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4), kind, order=order)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(user_input.load(tmp_path / "a.npy", TYPES), array)
    np.savez_compressed(tmp_path / "a.npz", a=array, other=np.array([{}], object))
    loaded = user_input.load(tmp_path / "a.npz", TYPES, names=("a", "b"))
    assert list(loaded) == ["a"]
    np.testing.assert_array_equal(loaded["a"], array)


def test_archives_that_unpack_to_gigabytes_are_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    header = npy(described("(300000000,)"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c2w.npy", header + bytes(5 << 20))
        archive.writestr("other.npy", header)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, 2_000_000_000)  # as if of 2 * 10^9 zeros
    path.write_bytes(content)
    assert len(content) < 10_000
    with pytest.raises(InputError, match="bomb.npz: its 'c2w' of 2,000,000,000 bytes is too large"):
        user_input.load(path, TYPES, names=("c2w",))
    assert user_input.load(path, TYPES, names=("intrinsics",)) == {}
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(2000):
            archive.writestr(f"array_of_some_name_{i}.npy", b"")
    with pytest.raises(InputError, match="bomb.npz: it has too many arrays"):
        user_input.load(path, TYPES, names=("c2w",))


def test_damaged_archives_are_refused(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, c2w=np.eye(4))
    whole = buffer.getvalue()
    for damaged in (
        whole[:-10],
        whole[30:],
        whole[:40] + b"\xff" * 40 + whole[80:],
        b"PK",
    ):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(InputError, match="a.npz: (is not a valid .npz file|cannot be read)"):
            user_input.load(tmp_path / "a.npz", TYPES, names=("c2w",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[" * 100_000, "nested deeper than"),
        ("a.json", "1" * 5000, "broken or truncated JSON"),
        ("a.json", '{"a": ', "broken or truncated JSON"),
        ("a.txt", "0" * ((16 << 20) + 1), "16,777,217 bytes are too many"),
    ],
)
def test_texts_that_are_too_deep_or_too_large_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name}: {message}"):
        user_input.load(tmp_path / name, TYPES)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    for name, message in (
        (str(tmp_path / "pipe.npy"), "is not a file"),
        (str(tmp_path), "is a folder"),
        ("https://example.org/path.npy", "is an address.*download it first"),
        ("a\0b.npy", "no such file"),
        ("x" * 5000 + ".npy", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            user_input.load(name, TYPES)


@pytest.mark.parametrize(
    "item",
    [
        None,
        True,
        "1",
        [],
        [[1, 2], [3]],
        [["a" * 1000, 2], [3, 4]],
        [10**400, 1, 2, 3],
        {"a": 1},
        [[[[[[[1]]]]]]],
    ],
)
def test_items_that_are_not_rows_of_numbers_are_named(item):
    with pytest.raises(InputError, match="a.json: frame 1: expected 2 x 2 numbers"):
        user_input.table([[[1, 2], [3, 4.5]], item], (2, 2), "a.json")


def test_long_tables_take_no_time():
    rows = json.loads(json.dumps(np.zeros((5_000, 4, 4)).tolist()))
    started = time.process_time()
    assert user_input.table(rows, (4, 4), "a.json").shape == (5_000, 4, 4)
    assert user_input.table(np.zeros((5_000, 4, 4), np.float32), (4, 4), "a.npy").dtype == np.float64
    assert time.process_time() - started < 2
    with pytest.raises(InputError, match="100,001 entries are too many"):
        user_input.table([0] * 100_001, (), "a.json")
    # A text that numpy would pad every number to.
    with pytest.raises(InputError, match="frame 0: expected a number"):
        user_input.table(["x" * 10_000_000] + [0] * 90_000, (), "a.json")


@pytest.mark.parametrize(
    ("text", "is_file"),
    [
        ("path.npy", True),
        ("nofile.txt", True),
        ("folder/path", True),
        ("https://example.org/a", True),
        ("orbit_left:22.5", False),
        ("bullet_time:2.5s", False),
        ("0:0, 8:4.5", False),
        ("zigzag", False),
    ],
)
def test_what_is_meant_as_a_file(text, is_file):
    assert user_input.is_file_name(text, TYPES) == is_file


def test_other_programs_names_are_known_and_long_ones_are_cut():
    error = user_input.unknown("move", "Arc-Left", ["orbit_left", "static"], {"arc_left": "orbit_left"})
    assert "did you mean orbit_left?" in str(error)
    assert len(str(user_input.unknown("move", "x" * 10_000, ["a"]))) < 200


@pytest.mark.parametrize(
    "name, hint",
    [
        ("bogus", "choose one of out, orbit_left, orbit_right, static, steps"),  # half of "out" is in it
        ("orbit_lefft", "did you mean orbit_left?"),
        ("orbit", "did you mean orbit_left or orbit_right?"),
        ("left-orbit", "did you mean orbit_left?"),
        ("stpes", "did you mean steps?"),
    ],
)
def test_only_near_names_are_suggested(name, hint):
    known = ["out", "orbit_left", "orbit_right", "static", "steps"]
    assert str(user_input.unknown("move", name, known)).endswith(f": {hint}")
