"""What a run computes, writes, reports and refuses, with the toy task."""

import shutil
import signal
import time
from collections import namedtuple

import numpy as np
import pytest
from flax import nnx

from stp_jax.devices import hardware
from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models.parameters import flatten
from stp_jax.training import loop, metrics, run, tensorboard
from stp_jax.training.checkpoints import Checkpoints
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import INIT, init_state, random_key
from stp_jax.weights import native, parts
from tests.training.runs import exported, logged, send
from tests.training.toy import ToyTask
from tests.training.toy_config import toy_config


def random_parameters(config):
    state = init_state(ToyTask(), make_optimizer(config.optimizer), config.seed, make_mesh())
    return {name: np.asarray(array, np.float64) for name, array in state.params.items()}


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
