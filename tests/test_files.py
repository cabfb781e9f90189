"""Files are whole or not there, whatever happens while they are written."""

import os
from pathlib import Path

import pytest

from stp_jax.errors import InputError
from stp_jax.files import cache_folder, new_file, replace_file


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
