"""launch/train_demo.py: what it plans, logs and refuses; and the whole chain, stopped once, on a CPU."""

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from input_pipeline.latents import LatentCache
from launch import train_demo
from launch.demo import arguments, data, processes, results
from stp_jax.errors import InputError
from stp_jax.weights import native
from tests.environment import environment
from tests.opengl import needs_opengl


def parse(*argv):
    return arguments.parse(list(argv), None)


def test_every_seed_is_in_one_part():
    parts = data.plan(range(100, 1000), range(2000000, 2000008), 50, 300)
    assert [part.kind for part in parts] == ["validation", "long", "scenes", "scenes", "scenes"]
    assert parts[1].seeds == range(950, 1000) and parts[0].split == "validation"
    assert [seed for part in parts[2:] for seed in part.seeds] == list(range(100, 950))


def test_a_run_is_one_line_of_the_log_and_the_table_adds_up_the_pairs(tmp_path):
    metrics = [
        {"step": 100, "loss": 0.5, "step_seconds": 0.05, "elapsed_seconds": 9.0},
        {"step": 100, "validation/loss": 0.4},
        {"step": 200, "loss": 0.3, "step_seconds": 0.07, "elapsed_seconds": 15.0},
        {"step": 250, "validation/loss": 0.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in metrics) + '{"st')
    (tmp_path / "checkpoints" / "100").mkdir(parents=True)
    assert results.trained_seconds(tmp_path) == 9.0
    args = SimpleNamespace(
        **dict(
            out=tmp_path, from_name="runs/demo/weights", vae=native.BUNDLED, vae_name="", clips_per_scene=16
        ),
        **dict(config_name="configs/demo.py:gpu", seeds=range(10, 20), long_scenes=2, batch_size=256),
        device_kind="4 x NVIDIA H100",
    )
    one = results.line(args, {"scenes": 8, "data_seconds": 30}, 99.6)
    assert (one["steps"], one["pairs"], one["loss"], one["seconds"]) == (250, 64000, 0.3, 100)
    assert (one["validation_first"], one["validation_last"], one["step_ms"]) == (0.4, 0.25, 60)
    assert one["vae"] == "stp_jax/assets/demo" and one["seeds"] == "10:20"
    log = tmp_path / "logs" / "runs.jsonl"
    for _ in range(2):
        results.write(one, tmp_path, log)
    head, _, *rows = results.table(results.read_log(log)).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    place = [cell.strip() for cell in head.strip("|").split("|")].index("pairs, M (all)")
    assert [row[place] for row in cells] == ["0.06 (0.06)", "0.06 (0.13)"]


def test_weights_are_copied_in_parts_of_at_most_15_mb(tmp_path):
    large = np.arange(9_000_000, dtype=np.float16).reshape(9, -1)
    native.save_weights(
        tmp_path / "run" / "weights", "dit", {"a": large}, {"dim": 4}, notes={"steps": 3}, dtype=None
    )
    results.copy(tmp_path / "run", tmp_path / "out")
    files = list((tmp_path / "out" / "weights").glob("*.safetensors"))
    assert len(files) == 2 and max(file.stat().st_size for file in files) <= 15_000_000
    np.testing.assert_array_equal(native.read_weights(tmp_path / "out" / "weights", "dit")["a"], large)
    assert native.read_index(tmp_path / "out" / "weights", "dit")["notes"] == {"steps": 3}


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--seeds 0:10", "--out is missing"),
        ("--out {t}/o --seeds 999990:1000001", "held out"),
        ("--out {t}/o --seeds 5:3", "first:end"),
        ("--out {t}/o --validation_seeds 0:4", "--validation_seeds"),
        ("--out {t}/o --long_scenes 3", "--long_scenes 3"),
        ("--out {t}/o --vae {t}/none", "--vae"),
        ("--out {t}/o --from {t}/none", "none"),
        ("--out {t}/o --from {t}/wide", "has dim 96, but configs/demo.py has 64"),
        ("--out {t}/o --from {t}/memory", "give --long_scenes"),
        ("--out {t}/o --clips_per_scene 2", "second camera path"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(arguments, "find_gpus", list)
    for name, model in (("wide", {"dim": 96}), ("memory", {"dim": 64, "memory": 4})):
        native.save_weights(tmp_path / name, "dit", {"a": np.zeros(2)}, model)
    with pytest.raises(InputError, match=message):
        parse("--small", *flags.format(t=tmp_path).split())
    assert not (tmp_path / "o").exists()


def test_without_a_gpu_the_user_is_pointed_to_the_small_run(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "find_gpus", list)
    with pytest.raises(InputError, match="--small"):
        parse("--out", str(tmp_path / "o"))
    monkeypatch.setattr(arguments, "find_gpus", lambda: [(str(i), "H100") for i in range(4)])
    with pytest.raises(InputError, match="there are 4"):
        parse("--out", str(tmp_path / "o"), "--gpus", "5")
    args = parse("--out", str(tmp_path / "o"), "--gpus", "2")
    assert args.device_kind == "2 x H100" and args.devices == ["0", "1"] and args.part_scenes == 400
    assert args.batch_size == 2 * args.config.train.batch_size and "validation" in args.config.train


def test_a_folder_belongs_to_the_flags_of_its_run(tmp_path, capsys):
    flags = ["--small", "--out", str(tmp_path / "o"), "--log", str(tmp_path / "log.jsonl")]
    (tmp_path / "log.jsonl").write_text(json.dumps({"seeds": "2:9", "out": "earlier"}) + "\n")
    arguments.open_folders(parse(*flags))
    assert "seeds 2:9 were used by the run earlier" in capsys.readouterr().out
    arguments.open_folders(parse(*flags, "--seconds", "9"))
    with pytest.raises(InputError, match="clips_per_scene was 4"):
        arguments.open_folders(parse(*flags, "--clips_per_scene", "6"))
    (tmp_path / "o" / "run.json").write_text("{}")
    with pytest.raises(InputError, match="is complete"):
        arguments.open_folders(parse(*flags))


def test_a_process_that_fails_ends_the_others_and_its_last_line_is_the_message(tmp_path):
    clock = processes.Clock(tmp_path / "state.json", 60)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        both = processes.Processes(tmp_path / "logs", [], clock)
        began = time.monotonic()
        with pytest.raises(InputError, match="no such scene"):
            both.run(
                [["-c", "import time; time.sleep(60)"], ["-c", "raise SystemExit('no such scene')"]], "x"
            )
        assert time.monotonic() - began < 30
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


@needs_opengl
def test_the_whole_chain_stops_on_sigterm_and_goes_on(tmp_path):
    out = tmp_path / "out"
    flags = ["--small", "--out", str(out), "--seeds", "0:1", "--validate_every", "1000", "--cameras", "3"]
    training = ["--", "--config.train.steps=100", "--config.loss.depth=0.1"]
    training += ["--config.optimizer.name=adamw", "--config.model.remat=none"]  # compile faster

    def start(seconds: int) -> subprocess.Popen:
        command = [sys.executable, train_demo.__file__, *flags, "--seconds", str(seconds), *training]
        return subprocess.Popen(command, env=environment(devices=1), stdout=subprocess.PIPE, text=True)

    with start(2000) as first:
        metrics = out / "work" / "run" / "metrics.jsonl"
        while first.poll() is None and not (metrics.exists() and '"loss"' in metrics.read_text()):
            time.sleep(0.1)
        first.send_signal(signal.SIGTERM)
        printed = first.communicate(timeout=120)[0]
    assert first.returncode == 128 + signal.SIGTERM, printed
    assert "same command goes on" in printed and not (out / "weights").exists()
    steps = max(one["step"] for one in results.read_metrics(out / "metrics.jsonl"))
    state = json.loads((out / "state.json").read_text())
    with start(round(state["elapsed"]) + 18) as second:
        printed = second.communicate(timeout=240)[0]
    assert second.returncode == 0, printed
    assert "rendered" not in printed and "encoded" not in printed
    (line,) = results.read_log(out / "runs.jsonl")
    assert line["steps"] >= steps and line["scenes"] == 1 and line["validation_last"] > 0
    assert sorted(path.name for path in (out / "weights").glob("*.json")) == ["dit.json", "vae.json"]
    assert list((out / "pictures").glob("*.png"))
    assert any("depth_loss" in one for one in results.read_metrics(out / "metrics.jsonl"))
    assert LatentCache.open(out / "work" / "latents" / "train", depth=True).scenes == 1
