"""Several processes train as one: real ones, on this machine, with the CPU's collectives."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.latents import LatentCache
from stp_jax.controls import cameras
from stp_jax.controls.view import View
from stp_jax.devices.distributed import connect
from stp_jax.errors import InputError
from stp_jax.weights import native
from tests.environment import ROOT, environment
from tests.tiny_model import write_tiny_model

STEPS = 24

# The train.py of the repository with the toy task; every example read is noted. The parent of a process that
# computes has no need of it.
PROGRAM = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})

def prepare():
    from input_pipeline.host_share import HostShare
    import tests.training.toy as toy
    from stp_jax.training.metrics import Meter

    toy.install()
    read = HostShare.__getitem__
    def note(self, index):
        if len(self._rows) < self._batch_size:  # not those for pictures, which all processes read alike
            with open(os.environ["NOTES"], "a") as file:
                file.write(f"{{self.place(index)}}\\n")
        return read(self, index)
    HostShare.__getitem__ = note
    numbers = Meter.numbers
    def slowly(self, step):  # steps last long enough to be interrupted
        time.sleep(0.1)
        return numbers(self, step)
    Meter.numbers = slowly
    mistake = os.environ.get("MISTAKE")
    if mistake and "--process=1" in sys.argv:
        error = {{"InputError": InputError, "AttributeError": AttributeError}}[mistake]
        def mistaken(self, index):
            if index > 40:
                raise error("scene_000123: damaged")
            return note(self, index)
        HostShare.__getitem__ = mistaken

from stp_jax.devices.supervisor import is_child
from stp_jax.errors import InputError, starting
if is_child() or not any(flag.startswith("--coordinator") for flag in sys.argv):
    with starting():
        prepare()
# Unlike runpy this keeps argv: the program starts itself again.
exec(compile(open({str(ROOT / "train.py")!r}).read(), "train.py", "exec"))
"""
CONFIG = f"""
from tests.training.toy_config import toy_config
def get_config():
    config = toy_config(steps={STEPS}, checkpoint_every=4, log_every=1)
    config.optimizer.schedule = "constant"  # whatever the number of steps
    config.optimizer.ema_every = 2  # the average waits in the hosts' memory
    return config
"""


class Run:
    """Processes of one run in a folder."""

    def __init__(self, folder: Path):
        self.folder, self.program, self.devices = folder, folder / "program.py", 4
        self.program.write_text(PROGRAM)
        (folder / "config.py").write_text(CONFIG)

    def start(self, count: int, mistake: str = "", **config) -> list[subprocess.Popen]:
        """Starts that many processes; the second finds a mistake in its data if an error's name is given."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = ["--config", str(self.folder / "config.py"), "--workdir", str(self.folder / "run")]
        flags += [f"--config.{name.replace('__', '.')}={value}" for name, value in config.items()]
        if count > 1:
            flags += [f"--coordinator=localhost:{port}", f"--processes={count}", "--heartbeat_seconds=8"]
        self.notes = [self.folder / f"{count}_{i}.txt" for i in range(count)]
        return [
            subprocess.Popen(
                [sys.executable, str(self.program), *flags, f"--process={i}"],
                cwd=self.folder,
                env=environment(self.devices // count) | {"NOTES": str(self.notes[i]), "MISTAKE": mistake},
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(count)
        ]

    def losses(self) -> dict[int, float]:
        lines = [json.loads(line) for line in (self.folder / "run/metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    def saved(self) -> list[int]:
        """The steps of the checkpoints that are whole."""
        return sorted(int(path.name) for path in self.folder.glob("run/checkpoints/*") if path.name.isdigit())

    def wait_for_a_checkpoint(self, after: int = 0) -> None:
        """Waits for one of a step after this one."""
        for _ in range(600):
            if max(self.saved(), default=0) > after:
                return
            time.sleep(0.1)
        raise TimeoutError("no checkpoint was written")


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    return [(process.wait(), process.communicate()[1]) for process in processes]


def exported(folder: Path) -> dict[str, np.ndarray]:
    return native.read_weights(folder / "weights", "toy")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of one process with four devices."""
    run = Run(tmp_path_factory.mktemp("straight"))
    ((status, errors),) = finish(run.start(1))
    assert status == 0, errors
    return run


def assert_same(run: Run, straight: Run) -> None:
    """The same loss at each step, and in the end the same weights."""
    losses, expected = run.losses(), straight.losses()
    assert losses.keys() == expected.keys()
    np.testing.assert_allclose(list(losses.values()), list(expected.values()), rtol=1e-5)
    weights = exported(run.folder / "run")
    for name, array in exported(straight.folder / "run").items():
        np.testing.assert_allclose(weights[name], array, atol=1e-5, err_msg=name)


def test_a_signal_to_one_process_stops_all_at_one_step_and_fewer_go_on(tmp_path, straight):
    run = Run(tmp_path)
    processes = run.start(2, train__steps=100_000, mesh__fsdp=2, mesh__sequence=2)
    run.wait_for_a_checkpoint()
    processes[1].send_signal(signal.SIGTERM)
    for status, errors in finish(processes):
        assert status == 128 + signal.SIGTERM, errors
    assert run.saved()[-1] < STEPS
    ((status, errors),) = finish(run.start(1))
    assert status == 0, errors
    assert_same(run, straight)


def test_more_go_on_and_a_killed_one_ends_the_others_with_advice(tmp_path, straight):
    run = Run(tmp_path)
    (process,) = run.start(1, train__steps=100_000)
    run.wait_for_a_checkpoint()
    process.send_signal(signal.SIGINT)
    ((status, errors),) = finish([process])
    assert status == 0 and not (tmp_path / "run/weights").exists(), errors
    alone = run.saved()[-1]
    processes = run.start(2, train__steps=100_000)
    run.wait_for_a_checkpoint(after=alone)
    children = subprocess.run(["pgrep", "-P", str(processes[1].pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
    (first, errors), (second, _) = finish(processes)
    assert second == 128 + signal.SIGKILL
    assert first == 75, errors
    assert "another process of this run is gone" in errors and "Start all of them again" in errors
    assert alone < run.saved()[-1] < STEPS
    notes = run.notes
    ((status, errors),) = finish(run.start(1))
    assert status == 0, errors
    assert_same(run, straight)
    for host, file in enumerate(notes):  # each process read its own rows of the batches
        places = set(map(int, file.read_text().split()))
        assert places and all(place % 8 // 4 == host for place in places)


def test_a_mistake_that_one_process_finds_ends_it_at_once_and_is_reported(tmp_path):
    run = Run(tmp_path)
    begun = time.monotonic()
    (first, output), (second, errors) = finish(run.start(2, "InputError", train__steps=100_000))
    assert (first, second) == (75, 2), errors
    assert "error: scene_000123: damaged" in errors and "another process" not in errors
    assert "another process of this run is gone" in output
    assert time.monotonic() - begun < 120  # a barrier would have waited for five minutes
    assert run.saved()


def test_a_fault_of_the_program_in_one_process_ends_all_at_once_and_is_reported(tmp_path):
    run = Run(tmp_path)
    begun = time.monotonic()
    (first, output), (second, errors) = finish(run.start(2, "AttributeError", train__steps=100_000))
    assert (first, second) == (75, 75), errors
    assert "AttributeError: scene_000123: damaged" in errors
    assert "another process of this run is gone" in output
    assert time.monotonic() - begun < 120


def test_the_real_model_trains_on_latents_in_two_processes(tmp_path):
    write_latents(tmp_path / "latents")
    write_tiny_model(tmp_path / "model")
    run = Run(tmp_path)
    run.program, run.devices = ROOT / "train.py", 2
    (tmp_path / "config.py").write_text(DIT_CONFIG.format(folder=tmp_path))
    for status, errors in finish(run.start(2)):
        assert status == 0, errors
    assert np.isfinite(list(run.losses().values())).all() and run.losses()
    trained = native.read_weights(tmp_path / "run/weights", "dit")
    assert all(np.isfinite(array).all() for array in trained.values())
    assert list((tmp_path / "run/pictures").glob("*.png"))


DIT_CONFIG = """
from configs import demo
def get_config():
    config = demo.get_config()
    config.vae = config.init_from = "{folder}/model"
    config.model.update(dim=48, ffn_dim=96, layers=2, channels=4, freq_dim=32, conditioning_dim=16, heads=2)
    config.model.remat = "none"
    config.optimizer.update(name="adamw")
    for data in (config.data, config.pictures.data):
        data.update(kind="latents", path="{folder}/latents", frames=5, height=32, width=32)
    config.pictures.count = 1
    config.sampling.steps = 2
    config.train.update(steps=3, batch_size=4, log_every=1, pictures_every=3, export_dtype="float32")
    config.train.checkpoint_every = 0
    return config
"""


def write_latents(folder: Path) -> None:
    """A latent cache of noise for the tiny model."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        cache = LatentCache.create(
            folder / split,
            scenes=4,
            clips=4,
            frames=5,
            latent_shape=(2, 8, 8, 4),
            clips_per_path=2,
            meta={"vae": {"temporal_downsample": (True, True)}, "seed": 0, "flip": False}
            | {"permute_channels": False},
        )
        for row in range(4):
            path = cameras.preset("orbit_left", 5)
            cache.write(
                row,
                rng.standard_normal((4, 2, 8, 8, 4), np.float32),
                View(
                    np.broadcast_to(path.c2w, (4, 5, 4, 4)),
                    np.broadcast_to(path.intrinsics, (4, 5, 4)),
                    rng.uniform(0, 4, (4, 5)).astype(np.float32),
                ),
            )


def test_a_coordinator_without_a_port_is_refused():
    with pytest.raises(InputError, match="give host:port of the first process, or auto"):
        connect("localhost", 2, 1)


@pytest.mark.parametrize("numbers", [(2, -1), (2, 2), (0, 0)])
def test_numbers_that_make_no_sense_are_refused(numbers):
    with pytest.raises(InputError, match="give --processes, how many there are, and --process"):
        connect("localhost:1", *numbers)
