"""A stopped run goes on as if it had not been stopped."""

import json
import os
import signal

import numpy as np
import pytest

from stp_jax import weights
from stp_jax.errors import InputError
from stp_jax.training import loop
from tests.training.toy import ToyTask, toy_config


def exported(workdir):
    return weights.read_weights(workdir / "weights", "toy")


def losses(workdir):
    lines = [json.loads(line) for line in open(workdir / "metrics.jsonl")]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def stop_at(monkeypatch, step, number):
    """Sends this process a signal when the trainer starts its step number `step`."""
    real = loop.make_train_step

    def make(*args):
        inner, count = real(*args), [0]

        def train_step(*state):
            count[0] += 1
            if count[0] == step:
                os.kill(os.getpid(), number)
            return inner(*state)

        return train_step

    monkeypatch.setattr(loop, "make_train_step", make)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_run_ends_bit_identical_to_a_straight_one(tmp_path, toy, monkeypatch, number):
    assert loop.train(toy_config(), tmp_path / "straight") is None
    with monkeypatch.context() as patch:
        stop_at(patch, 5, number)
        assert loop.train(toy_config(), tmp_path / "stopped") is number
    assert sorted(p.name for p in (tmp_path / "stopped/checkpoints").iterdir()) == ["5"]
    assert not (tmp_path / "stopped/weights").exists()
    assert loop.train(toy_config(), tmp_path / "stopped") is None
    straight, stopped = exported(tmp_path / "straight"), exported(tmp_path / "stopped")
    assert straight.keys() == stopped.keys()
    for name in straight:
        np.testing.assert_array_equal(straight[name], stopped[name])
    # The first logged means after the stop cover other steps; the last ones are of the same steps.
    assert losses(tmp_path / "straight")[10] == losses(tmp_path / "stopped")[10]
