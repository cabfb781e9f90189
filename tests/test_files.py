"""Files are whole or not there, whatever happens while they are written."""

import os
from pathlib import Path

import numpy as np
import pytest

from stp_jax.errors import InputError
from stp_jax.files import (
    MOST_NESTED,
    array_header,
    cache_folder,
    map_array,
    new_file,
    read_json,
    read_json_lines,
    replace_file,
)


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with replace_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert (partial.parent, partial.suffix) == (tmp_path, ".json")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_older_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replace_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_new_file_replaces_none(tmp_path):
    path = tmp_path / "a.txt"
    with new_file(path) as partial:
        partial.write_text("first")
    with pytest.raises(InputError, match="exists already"), new_file(path):
        pass
    assert path.read_text() == "first"
    with pytest.raises(InputError, match="cannot be written"), new_file(tmp_path / "no" / "b.txt") as partial:
        partial.write_text("lost")


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("text") == tmp_path / "stp_jax" / "text"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "stp_jax"
    assert not os.path.exists(tmp_path / "stp_jax")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is empty"),
        (b'{"a": 1', "broken or truncated JSON"),
        (b"\xff\xfe{}", "not a text in UTF-8"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" * (MOST_NESTED + 1) + b"]" * (MOST_NESTED + 1), "nested deeper"),
        (b"1" * 5000, "broken or truncated JSON"),
        (b"[1]", "must hold an object"),
        (b" " * 101, "101 bytes; a JSON file may have 100"),
    ],
)
def test_damaged_json_is_one_line_that_names_the_file(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as raised:
        read_json(path, dict, most=100 if b" " in data[:1] else 10**6)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def test_json_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": ' + b"[" * (MOST_NESTED - 1) + b"]" * (MOST_NESTED - 1) + b"}")
    assert list(read_json(path, dict)) == ["a"]
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "b.json")
    path.write_bytes(b'{"step": 1}\n[3]\n\xff\n{"step": 2}\n{"ste')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_arrays_are_mapped_and_never_made_longer(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6, dtype=np.float32).reshape(2, 3))
    whole = path.read_bytes()
    assert map_array(path, [2, 3], np.float32).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match=r"float32 \[2, 3\], not float32 \[3, 2\]"):
        map_array(path, [3, 2], np.float32)
    path.write_bytes(whole[:-4])
    with pytest.raises(InputError, match="truncated"):
        map_array(path, [2, 3], np.float32, "r+")
    assert len(path.read_bytes()) == len(whole) - 4
    padding = b" " * (whole.index(b"\n") - whole.index(b"}") - 1)
    digits = b"(2, " + b"7" * (len(padding) + 1) + b"), }"
    huge = (
        whole.replace(b"(2, 3), }" + padding, digits),
        whole.replace(b"(2, 3), }    ", b"(2**62, 9), }"),
        whole.replace(b"(2, 3), }      ", b"(99999999999,)}"),
    )
    for data in (b"", whole[:20], whole.replace(b"{", b"("), whole.replace(b"'", b'"', 1), *huge):
        path.write_bytes(data)
        with pytest.raises(InputError, match="a.npy: ") as raised:
            array_header(path)
        assert len(str(raised.value)) < len(str(path)) + 100
