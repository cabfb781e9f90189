"""What tests of whole runs of the toy task share."""

import json
import os

from stp_jax.training import loop
from stp_jax.weights import native


def exported(workdir):
    return native.read_weights(workdir / "weights", "toy")


def logged(workdir, name):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def send(monkeypatch, number, at_steps):
    """Sends this process a signal when the trainer starts these of its steps."""
    real = loop.make_train_step

    def make(*args):
        inner, count = real(*args), [0]

        def train_step(*state):
            count[0] += 1
            if count[0] in at_steps:
                os.kill(os.getpid(), number)
            return inner(*state)

        return train_step

    monkeypatch.setattr(loop, "make_train_step", make)
