"""A stopped run goes on as if it had not been stopped."""

import gc
import itertools
import json
import os
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from stp_jax.errors import InputError
from stp_jax.training import loop, progress, run, workdir
from tests.training.runs import exported, logged, send
from tests.training.toy_config import toy_config


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


def test_a_run_goes_on_without_a_second_state_beside_the_one_it_reads(tmp_path, toy, monkeypatch):
    loop.train(toy_config(steps=2), tmp_path)
    monkeypatch.delattr(run, "init_state")  # would make one
    loop.train(toy_config(steps=4), tmp_path)
    assert list(logged(tmp_path, "loss"))[-1] == 4


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
