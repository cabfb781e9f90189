"""The benchmark: its count of operations against XLA's and the models' own, and one run of the program."""

import dataclasses
import functools
import json
import re
import time

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs import demo
from stp_jax.benchmark import command, early, measure, operations, start, workloads
from stp_jax.benchmark.settings import SMALL
from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.flop import dit_flop
from stp_jax.models.parameters import bind
from stp_jax.training.dit_task import DiTTask
from stp_jax.training.state import trained
from stp_jax.weights import kinds
from tests.tiny_model import VAE_CONFIG, write_tiny_model

WITH_TINY_VAE = dataclasses.replace(SMALL, vae=VAE_CONFIG)
TINY = DiTConfig(
    dim=24, ffn_dim=40, layers=3, heads=2, channels=4, freq_dim=32, conditioning_dim=16, dtype="float32"
)


def test_operations_are_counted_as_xla_counts_them():
    def function(x, image):
        y = x @ x.T
        kernel = jnp.ones((3, 3, 2, 5))
        return y, jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    arguments = jnp.ones((8, 4)), jnp.ones((1, 9, 9, 2))
    counted = operations.count_flop(function, *arguments)
    assert counted == jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    def repeated(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=7)[0]

    assert operations.count_flop(repeated, jnp.ones((4, 4))) == 7 * 2 * 4**3


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"text_dim": 8, "camera": "pose12", "animation_time": "official_conv", "rope_frames": "stream"},
        {
            "text_dim": 8,
            "source": False,
            "camera": "none",
            "animation_time": "none",
            "rope_frames": "stream",
        },
    ],
    ids=["ours", "official", "wan"],
)
def test_formula_of_the_dit_counts_every_product_of_its_forward_pass(change):
    dim = 32 if "camera" in change and change["camera"] == "pose12" else 24
    config = dataclasses.replace(TINY, dim=dim, **change)
    sizes = dataclasses.replace(SMALL, dit=config, height=64, width=64)  # no padding: 48 tokens
    work = workloads.dit_workload(sizes)
    assert work.flop == operations.count_flop(work.function, *work.arguments)


def test_of_a_train_step_gradients_of_what_is_not_trained_are_not_counted():
    model_config = dataclasses.replace(TINY, dim=240, ffn_dim=400, layers=24)
    sizes = dataclasses.replace(SMALL, dit=model_config, height=64, width=64)
    _, noisy, source, conditioning = workloads.dit_workload(sizes).arguments
    graph, params = kinds.abstract("dit", model_config)

    def gradients(trained, frozen):
        def total(trained):
            model = bind(graph, frozen | trained)
            return model(noisy, source, jnp.ones(1), conditioning).sum()

        return jax.grad(total)(trained)

    for pattern in (".*", r"blocks\.[qkvo]\..*", r"blocks\.camera\..*"):
        chosen = trained(params, pattern)
        counted = operations.count_flop(gradients, chosen, params)
        config = demo.get_config()
        config.model.update(dataclasses.asdict(model_config))
        config.train.trainable = pattern
        config.data.update(frames=sizes.frames, height=sizes.height, width=sizes.width)
        # The formula takes latents and rays to need gradients, too.
        assert DiTTask(config, load=False).flop == pytest.approx(counted, rel=0.01)


def test_random_models_have_matrices_in_the_chosen_precision_and_vectors_in_float32():
    _, state = workloads.random_state(lambda: nnx.Linear(3, 5, rngs=nnx.Rngs(0)), "bfloat16")
    assert (state["kernel"].dtype, state["bias"].dtype) == (jnp.bfloat16, jnp.float32)
    assert jnp.all(state["kernel"][...] != 0)


def test_a_small_run_measures_everything(tmp_path, capsys):
    out = tmp_path / "figures.json"
    command.main(["--small", "--only", "dit", "--repeats", "1", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert [one["name"] for one in figures] == ["DiT forward"]
    assert figures[0]["seconds"] > 0 and figures[0]["first_seconds"] > 0
    assert "| DiT forward |" in capsys.readouterr().out

    with pytest.raises(SystemExit, match="2"):
        command.main(["--small", "--out", str(out)])
    assert "exists already" in capsys.readouterr().err


def test_a_video_is_measured_through_all_its_parts():
    small = WITH_TINY_VAE
    parts = [workloads.vae_workload(small, part, 1) for part in (workloads.encoding, workloads.decoding)]
    work = workloads.video_workload(small, chunk=1, steps=2, guidance=5.0, devices=4)
    forwards = 4 * dit_flop(small.dit, small.latent_size)
    assert work.flop == pytest.approx(sum(part.flop for part in parts) + forwards)
    result = work.function(*work.arguments)
    assert result.shape == work.arguments[2].shape and result.dtype == jnp.uint8
    assert len(result.sharding.device_set) == 4


def test_presets_of_speed_are_compared_on_a_video(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stp_jax.devices.hardware.use_compilation_cache", lambda: None)
    out, weights = tmp_path / "speeds.json", write_tiny_model(tmp_path / "weights")
    words = ["--compare_speeds", "--weights", str(weights), "--cases", "1", "--presets", "draft"]
    command.main([*words, "--out", str(out)])
    exact, draft = json.loads(out.read_text())
    assert (exact["forwards"], draft["forwards"]) == ([3], [2]) and exact["psnr"] == [None]
    assert draft["seconds"] > 0 and 0 < draft["psnr"][0] < 99 and draft["speed"]["cache_threshold"] == 0.1
    said = capsys.readouterr().out
    assert "| draft |" in said and "videos: 1; forwards of each without a preset: 3" in said
    for wrong, message in (
        (["--presets", "quick"], "invalid choice: 'quick'"),
        (["--out", str(out)], "exists"),
    ):
        with pytest.raises(SystemExit, match="2"):
            command.main([*words, *wrong])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("part", "chunk"), [(workloads.encoding, None), (workloads.decoding, 1)])
def test_the_vae_is_measured_whole_and_in_chunks(part, chunk):
    make = functools.partial(workloads.vae_workload, part=part, chunk=chunk)
    measured = measure.measure("vae", make, WITH_TINY_VAE)
    assert measured.seconds > 0 and measured.tflop_per_second > 0


def test_a_start_reads_models_from_disk_and_leaves_compiled_functions(tmp_path):
    folder, cache = tmp_path / "models", tmp_path / "cache"
    for kind in ("dit", "vae"):
        start.write_random_model(folder, kind, getattr(WITH_TINY_VAE, kind))
    options = WITH_TINY_VAE, folder, cache, 1, 5.0, time.time()
    _, parts, _ = measure.in_own_process(start.measure_start, *options, first=early.begin_start)
    in_order = ["imports", "waiting for the device", "their structures", "compiling the encoder"]
    in_order += ["beginning to encode", "compiling the step", "conditioning and step"]
    assert [part.name for part in parts if part.name in in_order] == in_order
    assert {"[reading the VAE]", "[reading the DiT]", "[encoding]"} < {part.name for part in parts}
    assert all(0 <= part.begin <= part.end for part in parts)
    assert [part.name for part in parts if part.name.endswith("cache: jit(step)")], "compiles once"
    assert any(cache.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--frames", "6"], "4n \\+ 1"),
        (["--height", "33"], "multiples of 16"),
        (["--only", "video", "--devices", "99"], "takes 8 of 8 devices"),
        (["--config", "configs/none.py"], "configs/none.py: there is no such file"),
    ],
)
def test_mistakes_are_one_line(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main([*(["--small"] if "--config" not in flags else []), *flags])
    assert re.search(message, capsys.readouterr().err)


# Bears the name of one in configs/, but lies elsewhere and asks for another model.
OTHER_DEMO = """
from configs import demo
def get_config(variant="cpu"):
    config = demo.get_config(variant)
    config.model.dim = 192
    return config
"""


def test_the_config_is_that_of_the_file(tmp_path):
    assert command.read_model_config("configs/demo.py").dim == 384
    (tmp_path / "demo.py").write_text(OTHER_DEMO)
    assert command.read_model_config(str(tmp_path / "demo.py")).dim == 192
    gpu = command.read_model_config(f"{tmp_path / 'demo.py'}:gpu")
    assert (gpu.dim, gpu.dtype) == (192, "bfloat16")
    with pytest.raises(InputError, match="there is no such file"):
        command.read_model_config("configs/nothing.py")
    with pytest.raises(InputError, match="the config of a DiT is needed"):
        command.read_model_config("configs/demo_vae.py")
