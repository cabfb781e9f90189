"""A stopped run goes on as if it had not been stopped."""

import gc
import itertools
import json
import os
import shutil
import signal
import time
from collections import namedtuple
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from stp_jax.devices import hardware
from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models.parameters import flatten
from stp_jax.training import loop, metrics, progress, run, tensorboard, workdir
from stp_jax.training.checkpoints import Checkpoints
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import INIT, init_state, random_key
from stp_jax.weights import native, parts
from tests.training.toy import ToyTask
from tests.training.toy_config import toy_config


def exported(workdir):
    return native.read_weights(workdir / "weights", "toy")


def random_parameters(config):
    state = init_state(ToyTask(), make_optimizer(config.optimizer), config.seed, make_mesh())
    return {name: np.asarray(array, np.float64) for name, array in state.params.items()}


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


@pytest.fixture(scope="module")
def straight(tmp_path_factory, toy):
    workdir = tmp_path_factory.mktemp("straight")
    assert loop.train(toy_config(log_every=5), workdir) is None
    return workdir


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_run_ends_bit_identical_to_a_straight_one(
    tmp_path, straight, monkeypatch, capsys, number
):
    workdir = tmp_path / "stopped"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        send(patch, number, [5])
        assert loop.train(toy_config(log_every=5), workdir) is number
    assert "Run the same command again to continue" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["5"]
    assert not (workdir / "weights").exists()
    assert loop.train(toy_config(log_every=5), workdir) is None
    for name, array in exported(straight).items():
        np.testing.assert_array_equal(array, exported(workdir)[name])


def held_at_each_step(monkeypatch, config, workdir):
    """Bytes of all arrays alive when each step of a run starts, and what its compiled step asks for."""
    real, held, asked = loop.make_train_step, [], []

    def make(*args):
        inner = real(*args)

        def train_step(*arguments):
            if not asked:
                memory = inner.lower(*arguments).compile().memory_analysis()
                asked.extend([memory.temp_size_in_bytes, memory.argument_size_in_bytes])
            held.append(sum(array.nbytes for array in jax.live_arrays()))
            return inner(*arguments)

        return train_step

    gc.collect()
    before = sum(array.nbytes for array in jax.live_arrays())
    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_train_step", make)
        loop.train(config, workdir)
    return [number - before for number in held], asked


def test_a_continued_run_needs_no_more_memory_than_a_new_one(tmp_path, toy, monkeypatch):
    new, asked = held_at_each_step(monkeypatch, toy_config(steps=4), tmp_path)
    continued, asked_again = held_at_each_step(monkeypatch, toy_config(steps=8), tmp_path)
    assert asked_again == asked
    assert len(continued) == 4
    # Numbers of steps on their way come and go; the parameters alone would be a fifth more.
    assert max(continued) <= 1.1 * max(new)


def test_a_checkpoint_of_another_optimizer_is_refused_by_name(tmp_path, toy):
    loop.train(toy_config(steps=2), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    changed = toy_config(steps=3)
    changed.optimizer.name = config["optimizer"]["name"] = "adamw"  # as if the program had changed
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="checkpoint 2 is of another model or optimizer"):
        loop.train(changed, tmp_path)
    assert (tmp_path / "checkpoints/2").is_dir()


def test_a_second_ctrl_c_aborts_at_once(tmp_path, toy, monkeypatch):
    real = progress.StopRequest._note

    def note_twice(self, number, frame):
        real(self, number, frame)
        real(self, number, frame)

    monkeypatch.setattr(progress.StopRequest, "_note", note_twice)
    send(monkeypatch, signal.SIGINT, [3])
    with pytest.raises(KeyboardInterrupt):
        loop.train(toy_config(), tmp_path / "run")
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_damaged_latest_checkpoint_costs_steps_but_not_exactness(tmp_path, straight, monkeypatch, capsys):
    workdir = tmp_path / "stopped"
    config = toy_config(checkpoint_every=3, log_every=5)
    with monkeypatch.context() as patch:
        send(patch, signal.SIGTERM, [8])
        loop.train(config, workdir)
    (workdir / "checkpoints/8/manifest.json").unlink()
    capsys.readouterr()
    loop.train(config, workdir)
    out = capsys.readouterr().out
    assert "Checkpoint 8 is damaged" in out and "Continuing" in out and "at step 6" in out
    for name, array in exported(straight).items():
        np.testing.assert_array_equal(array, exported(workdir)[name])


def test_finished_run_can_be_lengthened_but_not_shortened(tmp_path, toy, capsys):
    loop.train(toy_config(steps=4), tmp_path)
    loop.train(toy_config(steps=6), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 6
    with pytest.raises(InputError, match="train.steps is 5, but .* has done 6 steps"):
        loop.train(toy_config(steps=5), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 6
    before = (tmp_path / "metrics.jsonl").read_text()
    loop.train(toy_config(steps=6), tmp_path)
    assert "All 6 steps are done already" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_killed_and_resumed_run_has_each_step_in_one_line(tmp_path, toy, monkeypatch):
    config = toy_config(log_every=1, checkpoint_every=4, validate_every=5)
    loop.train(config, tmp_path / "straight")

    def fail(self, step):
        if step == 7:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop.Events, "after_error", lambda *_, **__: None)
        patch.setattr(loop.Trace, "before_step", fail)
        with pytest.raises(RuntimeError, match="killed"):
            loop.train(config, tmp_path / "killed")
    path = tmp_path / "killed/metrics.jsonl"
    assert max(logged(tmp_path / "killed", "loss")) == 5  # the last checkpoint is that of step 4
    path.write_bytes(path.read_bytes() + b'{"step": 8, "lo')
    loop.train(config, tmp_path / "killed")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for name in ("loss", "gradient_norm", "validation/loss"):
        found = [(line["step"], line[name]) for line in lines if name in line]
        assert found == list(logged(tmp_path / "straight", name).items())
    assert list(logged(tmp_path / "straight", "loss")) == list(range(1, 11))
    assert min(logged(tmp_path / "straight", "step_seconds").values()) > 0


@pytest.mark.parametrize("stop_at", [2, 5])
def test_each_step_has_its_own_line(tmp_path, straight, monkeypatch, stop_at):
    with monkeypatch.context() as patch:
        send(patch, signal.SIGTERM, [stop_at])
        loop.train(toy_config(log_every=1), tmp_path)
    loop.train(toy_config(log_every=1), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in losses] == list(range(1, 11))
    whole = logged(straight, "loss")  # means of five steps
    np.testing.assert_allclose(np.mean([loss for _, loss in losses[:5]]), whole[5], rtol=1e-6)


def test_work_directory_of_another_config_is_refused_with_the_difference(tmp_path, toy):
    loop.train(toy_config(steps=2), tmp_path)
    before = (tmp_path / "config.json").read_text()
    other = toy_config(steps=3)
    other.optimizer.learning_rate = 0.5
    with pytest.raises(InputError, match="optimizer.learning_rate was 0.02, is 0.5"):
        loop.train(other, tmp_path)
    assert (tmp_path / "config.json").read_text() == before


def test_time_for_pictures_is_not_the_time_of_steps(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(run.Preview, "write", lambda *_: time.sleep(3))
    loop.train(toy_config(steps=6, log_every=2, pictures_every=3), tmp_path)
    assert max(logged(tmp_path, "step_seconds").values()) < 1


def test_batch_that_does_not_divide_over_the_devices_is_refused(tmp_path, toy):
    with pytest.raises(InputError, match="batch_size 6 does not divide over 8 devices"):
        loop.train(toy_config(batch_size=6), tmp_path)


def test_every_mesh_trains_to_the_same_weights(tmp_path, straight):
    config = toy_config(log_every=5)
    config.mesh.update(data=2, fsdp=4)
    loop.train(config, tmp_path / "sharded")
    for name, array in exported(straight).items():
        np.testing.assert_allclose(array, exported(tmp_path / "sharded")[name], atol=1e-5)


def test_time_limit_ends_the_run_and_the_learning_rate_with_it(tmp_path, toy, monkeypatch):
    clock = itertools.count(0, 0.02)  # seconds, one look at the clock after the other
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    config = toy_config(steps=10**9, seconds=4, log_every=1)
    config.optimizer.update(schedule="linear", warmup_steps=1)
    assert loop.train(config, tmp_path) is None
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    meta = json.loads((checkpoint / "meta/metadata").read_text())
    assert 4 <= meta["elapsed_seconds"] < 5
    rates = list(logged(tmp_path, "learning_rate").values())
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.1 * 0.02
    # The time already spent counts: nothing is left to do.
    loop.train(config, tmp_path)
    assert len(os.listdir(tmp_path / "checkpoints")) == 1


def test_run_writes_metrics_pictures_and_weights(tmp_path, toy):
    loop.train(toy_config(pictures_every=5, export_every=4), tmp_path)
    assert list(logged(tmp_path, "loss")) == [2, 4, 6, 8, 10]
    for name in ("step_seconds", "examples_per_second", "data_wait_share", "gradient_norm", "mean_input"):
        assert all(np.isfinite(value) for value in logged(tmp_path, name).values())
    assert list(logged(tmp_path, "preview/mean_output")) == [5, 10]
    pictures = [f"{step:08d}.{kind}" for step in (5, 10) for kind in ("mp4", "png")]
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == pictures
    assert list((tmp_path / "tensorboard").iterdir())
    index = native.read_index(tmp_path / "weights", "toy")
    assert index["config"] == {"width": 8} and index["notes"]["steps"] == 10


def test_a_companion_that_is_not_whole_is_written_again(tmp_path, toy, monkeypatch):
    values = np.arange(4, dtype=np.float32)
    monkeypatch.setattr(ToyTask, "companions", lambda self: {"vae": ({"a": values}, {"z": 1})})
    loop.train(toy_config(steps=2), tmp_path)
    (part,) = (tmp_path / "weights").glob("vae-*.safetensors")
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    loop.train(toy_config(steps=3), tmp_path)
    np.testing.assert_array_equal(native.read_weights(tmp_path / "weights", "vae")["a"], values)


@pytest.mark.parametrize("stopped_at", [8, 9])
def test_the_last_step_is_logged_however_shortly_before_it_a_run_resumed(
    tmp_path, toy, monkeypatch, stopped_at
):
    with monkeypatch.context() as patch:
        send(patch, signal.SIGTERM, [stopped_at])
        loop.train(toy_config(steps=10, log_every=4), tmp_path)
    loop.train(toy_config(steps=10, log_every=4), tmp_path)
    assert list(logged(tmp_path, "loss"))[-1] == 10
    assert all(0 < seconds < 60 for seconds in logged(tmp_path, "step_seconds").values())


def test_without_an_average_the_parameters_themselves_are_saved(tmp_path, toy):
    config = toy_config(steps=4)
    config.optimizer.ema_decay = 0.0
    loop.train(config, tmp_path)
    config.train.steps = 8
    loop.train(config, tmp_path)
    saved = list(exported(tmp_path).values())
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, report=print)
    state = init_state(ToyTask(), make_optimizer(config.optimizer), 0, make_mesh(), average=False)
    restored = checkpoints.restore(state)
    assert not restored.ema
    for array, param in zip(saved, restored.params.values(), strict=True):
        np.testing.assert_array_equal(array, param)


def test_a_run_goes_on_without_a_second_state_beside_the_one_it_reads(tmp_path, toy, monkeypatch):
    loop.train(toy_config(steps=2), tmp_path)
    monkeypatch.delattr(run, "init_state")  # would make one
    loop.train(toy_config(steps=4), tmp_path)
    assert list(logged(tmp_path, "loss"))[-1] == 4


@pytest.mark.parametrize("every", [1, 3])
def test_the_average_is_that_of_the_parameters_after_every_so_many_steps(tmp_path, toy, monkeypatch, every):
    seen, real = [], run.Average.take

    def take(self, state, step):
        seen.append({name: np.asarray(array, np.float64) for name, array in state.params.items()})
        taken = real(self, state, step)
        assert {a.sharding.memory_kind for a in taken.ema.values()} == {
            "device" if every == 1 else "pinned_host"
        }
        return taken

    monkeypatch.setattr(run.Average, "take", take)
    config = toy_config(steps=7)
    config.optimizer.ema_every = every
    with monkeypatch.context() as patch:
        send(patch, signal.SIGTERM, [5])
        loop.train(config, tmp_path)
    loop.train(config, tmp_path)
    assert len(seen) == 7
    expected = exported_at_start = random_parameters(config)
    for step in range(every, 8, every):
        d = min(config.optimizer.ema_decay, step / (9 + step)) ** every
        expected = {name: d * e + (1 - d) * seen[step - 1][name] for name, e in expected.items()}
    for name, array in exported(tmp_path).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
        assert not np.allclose(array, exported_at_start[name])


def test_not_a_number_in_the_data_is_skipped_and_counted(tmp_path, toy, monkeypatch):
    poison(monkeypatch, at_steps=[3, 6])
    loop.train(toy_config(log_every=1), tmp_path)
    skipped = logged(tmp_path, "skipped")
    assert sum(skipped.values()) == 2 and np.isfinite(list(logged(tmp_path, "loss").values())).all()
    assert all(np.isfinite(array).all() for array in exported(tmp_path).values())


def test_a_run_that_is_never_finite_again_stops_with_advice_and_is_saved(tmp_path, toy, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, at_steps=range(5, 100))
        with pytest.raises(InputError, match=r"not finite for 3 steps in a row(.|\n)*learning_rate"):
            loop.train(toy_config(steps=100), tmp_path)
    (saved,) = (path.name for path in (tmp_path / "checkpoints").iterdir())
    assert 7 <= int(saved) <= 10
    loop.train(toy_config(steps=12), tmp_path)  # the data is mended
    assert all(np.isfinite(array).all() for array in exported(tmp_path).values())


def poison(monkeypatch, at_steps):
    """Puts NaN into the batches of these steps, counted from 1."""
    real, count = loop.make_train_step, [0]

    def make(*args):
        inner = real(*args)

        def train_step(state, frozen, batch, progress):
            count[0] += 1
            if count[0] in at_steps:
                batch = {name: array.at[0].set(np.nan) for name, array in batch.items()}
            return inner(state, frozen, batch, progress)

        return train_step

    monkeypatch.setattr(loop, "make_train_step", make)


def test_the_best_weights_on_held_out_scenes_are_kept(tmp_path, toy, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.5, 4.0])
    monkeypatch.setattr(run.Validation, "losses", lambda self, params: {"loss": next(losses)})
    loop.train(toy_config(steps=8, validate_every=2), tmp_path)
    assert logged(tmp_path, "validation/loss") == {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5}
    assert native.read_index(tmp_path / "best", "toy")["notes"]["steps"] == 4
    loop.train(toy_config(steps=12, validate_every=2), tmp_path)  # remembers the best
    notes = native.read_index(tmp_path / "best", "toy")["notes"]
    assert notes["steps"] == 10 and notes["validation_loss"] == 0.5


def test_validation_is_the_loss_of_held_out_batches_with_fixed_noise(tmp_path, toy):
    loop.train(toy_config(steps=4, validate_every=2), tmp_path / "one")
    config = toy_config(steps=4, validate_every=2)
    config.mesh.update(data=2, fsdp=4)
    loop.train(config, tmp_path / "two")
    one, two = (logged(tmp_path / name, "validation/loss") for name in ("one", "two"))
    assert one.keys() == {2, 4} and one[4] < one[2]
    np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=1e-5)


def test_speed_and_its_share_of_the_peak_are_logged(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(hardware, "chip", lambda kind: hardware.Chip(1e-3, 1, 1, 1))
    loop.train(toy_config(steps=6), tmp_path)
    seconds, tokens, mfu = (
        logged(tmp_path, name)[6] for name in ("step_seconds", "tokens_per_second", "mfu")
    )
    np.testing.assert_allclose(tokens * seconds, 8 * 10)
    np.testing.assert_allclose(mfu * seconds, 8 * 1e6 / 1e9 / 8)  # of 8 devices of 10^9 operations a second


def test_a_trace_is_written_on_request(tmp_path, toy, capsys):
    loop.train(toy_config(steps=15), tmp_path, profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "trace of 3 steps" in capsys.readouterr().out


def test_a_run_goes_on_with_another_order_when_the_data_grew(tmp_path, toy, monkeypatch, capsys):
    loop.train(toy_config(steps=4), tmp_path)
    monkeypatch.setattr(run, "count_examples", lambda config, split: 99)
    loop.train(toy_config(steps=6), tmp_path)
    assert "The data has 99 examples an epoch and had 50" in capsys.readouterr().out
    for steps, said in ((7, "and had 99"), (8, "and had {'a': 4, 'b': 7}")):  # of a mixture, any of its sets
        counts = {"a": 4, "b": steps}
        monkeypatch.setattr(run, "count_by_part", lambda config, split, counts=counts: counts)
        loop.train(toy_config(steps=steps), tmp_path)
        assert f"The data has {counts} examples an epoch {said}" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "message"), [
    (dict(batch_size=8, accumulate=2), "batch_size 8 does not divide over 8 devices in 2 parts"),
    (dict(accumulate=0), "accumulate is 0"),
])  # fmt: skip
def test_parts_that_do_not_divide_are_refused(tmp_path, toy, change, message):
    with pytest.raises(InputError, match=message):
        loop.train(toy_config(**change), tmp_path)


def test_an_average_that_would_never_be_taken_is_refused(tmp_path, toy):
    config = toy_config(steps=4)
    config.optimizer.ema_every = 5
    with pytest.raises(InputError, match="ema_every is 5: in a run of 4 steps"):
        loop.train(config, tmp_path)


def test_a_run_that_cannot_be_saved_says_so_at_its_end_and_keeps_its_weights(
    tmp_path, toy, monkeypatch, capsys
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(10))
    with pytest.raises(InputError, match="Step 10 could not be saved, no step is"):
        loop.train(toy_config(checkpoint_every=4), tmp_path)
    assert "Checkpoint 4 is NOT written" in capsys.readouterr().out
    assert exported(tmp_path)


def test_after_the_data_grew_the_position_is_counted_from_there(tmp_path, toy, monkeypatch):
    def positions(config, seed, mesh, first_example=0):
        begun.append(first_example)
        return real(config, seed, mesh, first_example)

    begun: list[int] = []
    real = run.training_data
    loop.train(toy_config(steps=4), tmp_path)
    monkeypatch.setattr(run, "count_examples", lambda config, split: 99)
    monkeypatch.setattr(run, "training_data", positions)
    for steps in (6, 9):
        loop.train(toy_config(steps=steps), tmp_path)
    assert [place for place in begun if place] == [2 * 8]  # 6 - 4 steps of the new order; before, its first


def test_a_mistake_in_the_data_costs_no_work(tmp_path, straight, monkeypatch):
    def breaking(config, seed, mesh, first_example=0):
        dataset = real(config, seed, mesh, first_example)
        left = iter(range(5))

        def check(batch):
            if next(left, None) is None:
                raise InputError("scene_000123: damaged")
            return batch

        return dataset.map(check)

    real = run.training_data
    with monkeypatch.context() as patch:
        patch.setattr(run, "training_data", breaking)
        with pytest.raises(InputError, match="scene_000123"):
            loop.train(toy_config(log_every=5), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]
    loop.train(toy_config(log_every=5), tmp_path)  # the data is mended
    for name, array in exported(straight).items():
        np.testing.assert_array_equal(array, exported(tmp_path)[name])


def no_space(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_full_disk_costs_numbers_and_pictures_but_not_the_run(tmp_path, straight, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(tensorboard.RecordWriter, "flush", no_space)
        patch.setattr(metrics, "contact_sheet", no_space)
        loop.train(toy_config(log_every=1, pictures_every=2), tmp_path)
    assert capsys.readouterr().out.count("could not be written (") == 1
    for name, array in exported(straight).items():
        np.testing.assert_array_equal(array, exported(tmp_path)[name])


def test_weights_that_cannot_be_written_are_reported_and_written_later(
    tmp_path, straight, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(parts, "save_file", no_space)
        with pytest.raises(InputError, match="Step 10 is saved, but its weights could not be written"):
            loop.train(toy_config(log_every=5, validate_every=4), tmp_path)
    output = capsys.readouterr().out
    assert "Weights of step 4 are NOT written" in output and "No space left on device" in output
    loop.train(toy_config(log_every=5, validate_every=4), tmp_path)
    for name, array in exported(straight).items():
        np.testing.assert_array_equal(array, exported(tmp_path)[name])
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_work_directory_in_use_is_refused_until_it_is_free(tmp_path, toy, monkeypatch, capsys):
    monkeypatch.setattr(workdir, "LOCK_SECONDS", 1)
    with workdir.locked(tmp_path, print):
        with pytest.raises(InputError, match=rf"is in use by another run \(process {os.getpid()} on "):
            loop.train(toy_config(steps=2), tmp_path)
        assert "waiting for 1 s" in capsys.readouterr().out
    loop.train(toy_config(steps=2), tmp_path)
    assert exported(tmp_path)


def test_a_run_may_go_on_in_more_parts_and_elsewhere(tmp_path, toy, capsys):
    config = toy_config(steps=2, batch_size=16)
    loop.train(config, tmp_path)
    config.data.path = "moved"
    config.train.update(steps=4, accumulate=2)
    loop.train(config, tmp_path)
    output = capsys.readouterr().out
    assert "data.path was none, is moved" in output and "train.accumulate was 1, is 2" in output


def test_held_out_scenes_are_needed_only_where_they_are_shown_or_measured(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(run, "Preview", None)
    monkeypatch.setattr(run, "Validation", None)
    loop.train(toy_config(steps=2), tmp_path)


def test_a_trace_of_a_short_run_is_reported_to_be_none(tmp_path, toy, capsys):
    loop.train(toy_config(steps=11), tmp_path, profile=True)
    assert "too short for a whole trace" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train.export_dtype", "bf16", "export_dtype is 'bf16'; choose float32"),
        ("train.validation_batches", 0, "validation_batches is 0"),
        ("train.learning_rate", 3, "unknown field of config.train 'learning_rate'"),
        ("pictures.count", 0, "config.pictures.count is 0"),
        ("sampling.steps", 0, "config.sampling.steps is 0"),
        ("mesh.seq", 1, "unknown field of config.mesh 'seq'"),
        ("optimizer.learning_rate", -1.0, "learning_rate is -1.0; it must be at least 0"),
        ("optimizer.clip", -1.0, "clip is -1.0; it must be at least 0"),
        ("optimizer.decay_from", 1.0, "decay_from is 1.0; it must be at least 0 and below 1"),
        ("optimizer.muon_parameters", "(", "is not a regular expression"),
        ("optimizer.momentum", 0.9, "unknown field of config.optimizer 'momentum'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, toy, field, value, message):
    config = toy_config(validate_every=1, pictures_every=1)
    part, name = field.split(".")
    with config.unlocked():
        config[part][name] = value
    with pytest.raises(InputError, match=message):
        loop.train(config, tmp_path)


def test_a_field_that_is_not_there_is_named(tmp_path, toy):
    config = toy_config()
    del config.train.accumulate
    with pytest.raises(InputError, match="config.train lacks accumulate"):
        loop.train(config, tmp_path)


def test_no_clipping_is_no_vanishing(tmp_path, toy):
    config = toy_config(steps=3)
    config.optimizer.clip = 0.0
    loop.train(config, tmp_path)
    start = flatten(ToyTask().init(nnx.Rngs(random_key(config.seed, 0, INIT))))
    assert all(np.abs(array - start[name]).max() > 0 for name, array in exported(tmp_path).items())
