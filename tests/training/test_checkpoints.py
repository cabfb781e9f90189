"""A checkpoint that is not whole is never used, and never lost."""

import shutil
import subprocess
import sys
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.training import checkpoints as module
from stp_jax.training.checkpoints import Checkpoints
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import init_state
from tests.training.toy import ToyTask
from tests.training.toy_config import toy_config


@pytest.fixture(scope="module")
def initial():
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        return init_state(ToyTask(), make_optimizer(toy_config().optimizer), 0, mesh)


@pytest.fixture(scope="module")
def written(tmp_path_factory, initial):
    """Checkpoints 1 and 2, with parameters 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        filled = jax.tree.map(lambda x: jnp.full_like(x, step), initial)  # noqa: B023
        checkpoints.save(filled, {"step": step, "elapsed_seconds": 0.5 * step})
    checkpoints.close()
    return folder


@pytest.fixture
def copy(tmp_path, written):
    return shutil.copytree(written, tmp_path / "copy")


def restore(folder, initial):
    reports = []
    checkpoints = Checkpoints(folder, report=reports.append)
    state = checkpoints.restore(initial)
    meta = checkpoints.meta()
    checkpoints.close()
    return state, meta, reports


def assert_is_step(step, state, meta):
    assert meta == {"step": step, "elapsed_seconds": 0.5 * step}
    assert int(state.step) == step
    for leaf in jax.tree.leaves(state):
        np.testing.assert_array_equal(leaf, step)


def test_whole_checkpoint_restores_arrays_and_metadata(copy, initial):
    state, meta, reports = restore(copy, initial)
    assert_is_step(2, state, meta)
    assert reports == []
    assert jax.tree.structure(state) == jax.tree.structure(initial)


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(step):
    path = largest_file(step / "params")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(step):
    path = largest_file(step / "opt_state")
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES = {
    "bit flip": flip_a_bit,
    "truncated file": truncate,
    "missing item": lambda step: shutil.rmtree(step / "ema"),
    "missing metadata": lambda step: shutil.rmtree(step / "meta"),
    "missing manifest": lambda step: (step / "manifest.json").unlink(),
    "garbled manifest": lambda step: (step / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_latest_is_reported_and_kept_and_the_one_before_used(copy, initial, damage):
    damage(copy / "2")
    left = sorted(p.relative_to(copy / "2") for p in (copy / "2").rglob("*"))
    state, meta, reports = restore(copy, initial)
    assert_is_step(1, state, meta)
    assert len(reports) == 1 and "Checkpoint 2 is damaged" in reports[0]
    aside = copy / "damaged" / "2"
    assert sorted(p.relative_to(aside) for p in aside.rglob("*")) == left


def test_half_written_checkpoint_is_reported_and_can_be_written_again(copy, initial):
    (copy / "2").rename(copy / "2.orbax-checkpoint-tmp")
    (copy / "2.orbax-checkpoint-tmp" / "manifest.json").unlink()
    state, meta, reports = restore(copy, initial)
    assert_is_step(1, state, meta)
    assert len(reports) == 1 and "interrupted" in reports[0]
    checkpoints = Checkpoints(copy, report=reports.append)
    checkpoints.save(jax.tree.map(lambda x: x + 1, state), {"step": 2, "elapsed_seconds": 1.0})
    checkpoints.close()
    assert Checkpoints(copy).latest == 2
    assert (copy / "damaged" / "2.orbax-checkpoint-tmp" / "params").is_dir()


def test_if_no_checkpoint_is_whole_the_run_does_not_start_anew(copy):
    for step in ("1", "2"):
        flip_a_bit(copy / step)
    with pytest.raises(InputError, match="no checkpoint is whole"):
        Checkpoints(copy, report=lambda line: None)
    assert sorted(p.name for p in (copy / "damaged").iterdir()) == ["1", "2"]
    with pytest.raises(InputError, match="no checkpoint is whole"):
        Checkpoints(copy)


def test_only_the_latest_are_kept(tmp_path, initial):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 5):
        checkpoints.save(initial, {"step": step, "elapsed_seconds": 0.0})
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]


KILLED = """
import os, jax, numpy as np
from stp_jax.devices.sharding import make_mesh
from stp_jax.training import checkpoints as module
from tests.training.toy import ToyTask
from tests.training.toy_config import toy_config
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import init_state
mesh = make_mesh()
state = init_state(ToyTask(), make_optimizer(toy_config().optimizer), 0, mesh)
checkpoints = module.Checkpoints({folder!r})
module.write_manifest = lambda folder: os._exit(9)
checkpoints.save(state, dict(step=3, elapsed_seconds=0.0))
checkpoints.wait()
"""


def test_a_process_killed_while_writing_leaves_the_one_before(copy, initial):
    killed = subprocess.run([sys.executable, "-c", KILLED.format(folder=str(copy))], capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    state, meta, reports = restore(copy, initial)
    assert_is_step(2, state, meta)
    assert len(reports) == 1 and "interrupted" in reports[0]


def test_a_disk_without_room_costs_the_checkpoint_and_nothing_else(copy, initial, monkeypatch):
    reports = []
    checkpoints = Checkpoints(copy, report=reports.append)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(10))
        assert not checkpoints.save(initial, {"step": 3, "elapsed_seconds": 0.0})
    assert "Checkpoint 3 is NOT written" in reports[0] and " free. Free" in reports[0]
    assert checkpoints.latest == 2
    assert checkpoints.save(initial, {"step": 4, "elapsed_seconds": 0.0})
    checkpoints.close()
    assert Checkpoints(copy).latest == 4


def test_a_disk_that_fills_up_while_writing_leaves_the_one_before(copy, initial, monkeypatch):
    reports = []
    checkpoints = Checkpoints(copy, report=reports.append)

    def full(folder):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", full)
        assert checkpoints.save(initial, {"step": 3, "elapsed_seconds": 0.0})
        checkpoints.wait()
    assert "Checkpoint 3 could not be written" in reports[0] and "No space left" in reports[0]
    assert "2 is the latest" in reports[0] and checkpoints.latest == 2
    assert checkpoints.save(initial, {"step": 4, "elapsed_seconds": 0.0})
    checkpoints.close()
    state, meta, _ = restore(copy, initial)
    assert meta["step"] == 4


def test_a_checkpoint_is_restored_on_any_mesh(written, initial):
    for sizes in (dict(data=2, fsdp=4), dict(fsdp=2, data=1, sequence=2, tensor=2)):
        mesh = make_mesh(**sizes)
        with jax.set_mesh(mesh):
            like = init_state(ToyTask(), make_optimizer(toy_config().optimizer), 0, mesh)
            checkpoints = Checkpoints(written)
            state = checkpoints.restore(like)
            checkpoints.close()
        assert state.params["blocks.kernel"].sharding == like.params["blocks.kernel"].sharding
        for leaf in jax.tree.leaves(state):
            np.testing.assert_array_equal(leaf, 2)
