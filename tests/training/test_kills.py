"""Killed at any time, a run ends as if it had not been."""

import json
import os
import subprocess
import sys

import numpy as np

from stp_jax.weights import native
from tests.environment import ROOT, environment

KILLS = int(os.environ.get("STP_KILLS", "8"))  # 32 take two minutes
STEPS = 30

# One process imports everything and forks a child for each attempt, before JAX has touched a device.
PROGRAM = """
import glob, os, random, signal, sys, time

from stp_jax.errors import starting

with starting():
    import tests.training.toy as toy
    from stp_jax.training import loop
    from stp_jax.training.metrics import Meter
    from tests.training.toy_config import toy_config

toy.install()
folder, kills, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
numbers = Meter.numbers
def slowly(self, step):
    time.sleep(0.05)
    return numbers(self, step)
Meter.numbers = slowly

def train(workdir):
    child = os.fork()
    if child == 0:
        config = toy_config(steps=steps, checkpoint_every=2, log_every=1, keep_checkpoints=2)
        loop.train(config, workdir)
        os._exit(0)
    return child

os.waitpid(train(folder + "/compiled"), 0)  # later ones find what this one compiled
begun = time.monotonic()
os.waitpid(train(folder + "/straight"), 0)
longest = time.monotonic() - begun
draw = random.Random(0)

def saved():
    found = glob.glob(folder + "/killed/checkpoints/*")
    return max((int(path.rpartition("/")[2]) for path in found if path[-1].isdigit()), default=0)

# Every other kill comes at any time from before the first step to the end. So many would fall into the start
# that the ones between come a few steps after an attempt has written a checkpoint.
done = killed = 0
while killed < kills:
    child, ended, before = train(folder + "/killed"), False, saved()
    deadline = time.monotonic() + draw.uniform(0, 0.9 * longest) if killed % 2 else None
    while not ended and (deadline is None or time.monotonic() < deadline):
        time.sleep(0.005)
        ended = os.waitpid(child, os.WNOHANG)[0] == child
        if deadline is None and saved() > before:
            deadline = time.monotonic() + draw.uniform(0, 0.3)
    if ended:  # it was complete: begin anew
        os.rename(folder + "/killed", folder + f"/done{done}")
        done += 1
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
os.waitpid(train(folder + "/killed"), 0)
"""


def test_however_often_it_is_killed_a_run_ends_bit_identical(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(KILLS), str(STEPS)],
        cwd=ROOT,
        env=environment(devices=1) | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    straight = native.read_weights(tmp_path / "straight/weights", "toy")
    finished = [tmp_path / "killed", *tmp_path.glob("done*")]
    assert done.stdout.count("Continuing") >= KILLS // 3, done.stdout
    for folder in finished:
        for name, array in straight.items():
            np.testing.assert_array_equal(array, native.read_weights(folder / "weights", "toy")[name])
        losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert losses[-1]["step"] == STEPS
