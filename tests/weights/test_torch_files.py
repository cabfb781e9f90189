"""Hostile .ckpt and .pth files: refused before they take memory or time, and never read outside the file."""

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from stp_jax.errors import InputError
from stp_jax.weights import torch_files
from stp_jax.weights.files import open_tensors
from tests.torch_files import Global, Storage, TorchPickler, tensor, write_torch

VALUES = np.arange(12, dtype=np.float32)


def rebuilt(*arguments):
    return Global("torch._utils", "_rebuild_tensor_v2", *arguments, False, OrderedDict())


def pickled(structure):
    file = io.BytesIO()
    TorchPickler(file, protocol=2).dump(structure)
    return file.getvalue()


def after_memo(opcodes):
    """A pickle of one tensor, into which opcodes are put before its end."""
    return pickled({"a": tensor("0", "FloatStorage", (12,), (1,))})[:-1] + opcodes + b"."


REPEATED = rebuilt(Storage("0", "FloatStorage", 12), 0, (100,), (0,))
PARAMETER = Global("torch._utils", "_rebuild_parameter", REPEATED, True, OrderedDict())

HOSTILE = {
    # The base of a rebuilt tensor had been taken for a storage, as long as its shape says.
    "a tensor as a storage": ({"a": rebuilt(REPEATED, 0, (500, 500), (500, 1))}, "a tensor that is none"),
    "a parameter as a storage": ({"a": rebuilt(PARAMETER, 0, (500, 500), (500, 1))}, "a tensor that is none"),
    "one number repeated to 4 GB": (
        {"a": rebuilt(Storage("0", "FloatStorage", 12), 0, (2**30,), (0,))},
        "a tensor larger than its file",
    ),
    "strides beyond the storage": (
        {"a": rebuilt(Storage("0", "FloatStorage", 12), 0, (2, 3), (10, 1))},
        "reaches beyond its storage",
    ),
    "sizes that overflow": (
        {"a": rebuilt(Storage("0", "FloatStorage", 12), 0, (2**61, 8), (1, 1))},
        "reaches beyond its storage",
    ),
    "sizes that are no numbers": (
        {"a": rebuilt(Storage("0", "FloatStorage", 12), 0, (3.0, True), (4, 1))},
        "of impossible shape",
    ),
    "more of a storage than there is": (
        {"a": rebuilt(Storage("0", "FloatStorage", 13), 0, (2,), (1,))},
        "a storage that lacks bytes",
    ),
    "half a number": (
        {"a": rebuilt(Storage("1", "FloatStorage", 1), 0, (1,), (1,))},
        "a storage that lacks bytes",
    ),
    "a memo of 2^28 places": (b"\x80\x02}r\x00\x00\x00\x10.", "holds no tensors"),
    "a key that is hashed for ever": (
        # t = (t, t), fifty times, as a key: its hash takes 2^50 steps
        b"\x80\x02})" + b"q\x00h\x00\x86" * 50 + b"K\x01s.",
        "holds no tensors",
    ),
    "a dict within itself": (b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.", "holds no tensors"),
    "attributes for our own functions": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xsb.",
        "something in the place of a dict",
    ),
    "attributes for a type": (b"\x80\x02ctorch\nFloatStorage\n}b.", "something in the place of a dict"),
    "a call of a type": (b"\x80\x02ctorch\nFloatStorage\n)R.", "a call of something that is no function"),
    "a new object": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ is not among the opcodes"),
    "a text of 2 GB": (b"\x80\x02X\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
    "a number of 2 GB": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "not enough data"),
    "too many opcodes": (b"\x80\x02" + b"]" * 30_000 + b".", "too many parts"),
    "marks without an end": (b"\x80\x02" + b"(" * 10_000 + b".", "cannot be read"),
    "an unknown opcode": (b"\x80\x02\xff.", "cannot be read"),
    "nothing to take": (b"\x80\x02\x86.", "something is missing"),
    "nothing at all": (b"", "cannot be read"),
    "a protocol of texts": (b"cos\nsystem\n(S'true'\ntR.", "its pickle asks for os.system"),
    "an instance": (b"(S'true'\nios\nsystem\n.", "cannot be read|asks for os.system"),
    "names from the stack": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "its pickle asks for os.system"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles_are_refused_at_once(tmp_path, monkeypatch, what):
    monkeypatch.setattr(torch_files, "OPCODES", 20_000)
    structure, complaint = HOSTILE[what]
    path = write_torch(tmp_path / "a.ckpt", structure, {"0": VALUES, "1": VALUES[:1].astype(np.float16)})
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(InputError, match=complaint) as error:
            open_tensors(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
    assert peak < 50e6 and time.perf_counter() - start < 5


def test_attributes_of_a_dict_are_left_out(tmp_path):
    """As the state dicts of modules have them."""
    opcodes = b"}X\x09\x00\x00\x00_metadata}sb"
    path = write_torch(tmp_path / "a.ckpt", after_memo(opcodes), {"0": VALUES})
    assert np.array_equal(open_tensors(path)["a"], VALUES)


def in_zip(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


PICKLE = pickle.dumps({}, protocol=2)


def test_entries_that_overlap_or_share_a_name_are_refused(tmp_path):
    path = in_zip(tmp_path / "a.pth", [("a/data.pkl", PICKLE), ("a/data/0", b"1234"), ("a/data/1", b"5678")])
    data = path.read_bytes()
    second = data.rfind(b"PK\x01\x02")
    first = data.rfind(b"PK\x01\x02", 0, second)
    both = data[: second + 42] + data[first + 42 : first + 46] + data[second + 46 :]  # where the entry lies
    path.write_bytes(both)
    with pytest.raises(InputError, match="entries that overlap"):
        open_tensors(path)
    path.write_bytes(data.replace(b"a/data/1", b"a/data/0"))
    with pytest.raises(InputError, match="two entries of one name"):
        open_tensors(path)


def test_a_directory_of_absurd_size_is_not_read(tmp_path):
    size = 200_000_000
    path = tmp_path / "a.pth"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(size)  # a hole: it takes no disk
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, size - 4, 4, 0))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="directory, at the end, is missing or wrong"):
            open_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_flipped_bit_in_a_pickle_is_noticed(tmp_path):
    path = write_torch(tmp_path / "a.pth", {"a": tensor("0", "FloatStorage", (3, 4), (4, 1))}, {"0": VALUES})
    data = bytearray(path.read_bytes())
    at = data.index(b"FloatStorage") + 40
    data[at] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match="its checksum is wrong"):
        open_tensors(path)
