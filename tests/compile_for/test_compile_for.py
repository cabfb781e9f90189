"""Compiling for pods: what surrounds the compiler; and the compiler itself where it is installed."""

import dataclasses
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from configs import wan_1_3b_plucker
from stp_jax.command_line import read_config
from stp_jax.compile_for import compiling
from stp_jax.compile_for.collectives import GIB, count_collectives
from stp_jax.compile_for.report import Compiled
from stp_jax.compile_for.topology import NO_POD
from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError

ROOT = Path(__file__).parents[2]
TINY = """
from configs import wan_1_3b_plucker
def get_config():
    config = wan_1_3b_plucker.get_config()
    config.model.update(dim=256, ffn_dim=512, layers=1, heads=2, text_dim=32, conditioning_dim=16)
    config.model.unroll = True
    config.data.update(frames=17, height=128, width=128)
    return config
"""


def tiny_config(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    return read_config(str(tmp_path / "tiny.py"))


@pytest.mark.parametrize("what", [compiling.abstract_step, compiling.abstract_velocity])
def test_the_steps_compile_without_any_array(tmp_path, what):
    config = tiny_config(tmp_path)
    mesh = make_mesh(data=1, fsdp=4, sequence=2)
    config.train.batch_size = 4
    with jax.set_mesh(mesh):
        step, arguments = what(config, mesh)
        compiled = step.lower(*arguments).compile()
    found = count_collectives(compiled.as_text())
    if what is compiling.abstract_step:  # the other does not need all of its arguments
        state = compiling.shard_gib(arguments) * GIB
        assert state == pytest.approx(compiled.memory_analysis().argument_size_in_bytes, rel=0.01)
    assert found["all-gather"][0] > 0 and found["all-to-all"][0] > 0
    assert all(size > 0 for _, size in found.values())


@pytest.mark.parametrize(
    ("message", "over"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 35.3G of 15.7G hbm. "
         "Exceeded hbm capacity by 19.60G.", 19.6),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
         "(31.69G) exceeds available HBM (15.75G).", 15.94),
        ("INTERNAL: something else", 0.0),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_read_from_the_compilers_message(message, over):
    assert compiling.excess(message) == pytest.approx(over)


REPORT = Compiled(
    topology="v5p:2x2x1",
    mesh=dict(data=1, fsdp=2, sequence=2, tensor=1),
    batch_size=2,
    state=3.0,
    peak=8.5,
    memory=95,
    collectives={"all-gather": (7, 0.5)},
    floor_seconds=2.0,
    link_seconds=0.3,
    compile_seconds=100.0,
)


def test_the_report_says_what_fits_and_what_would():
    report = REPORT.report(0.5)
    assert "fsdp 2 x sequence 2, batch 2" in report and "at most 8.50 of 95 GiB, 3.00 of them" in report
    assert "received in a step: 7 all-gather (0.50 GiB)" in report and "0.30 s of their links" in report
    assert "4.00 s at an assumed MFU of 50%" in report
    assert "5.00 s at an assumed" in dataclasses.replace(REPORT, link_seconds=5.0).report(0.5)
    report = dataclasses.replace(REPORT, state=30, average=8, over=5).report(0.5)
    assert "does NOT fit: 5.0 GiB more than the 95.0 GiB of a device, 30.0 of them parameters" in report
    assert (
        "as sequence (saves 50.0); twice the devices, as fsdp (saves 15.0); the average in the hosts' memory"
        in report
    )
    report = dataclasses.replace(REPORT, state=30, average=8, over=12).report(0.5)
    assert "as fsdp (saves 15.0)" in report and "average" not in report
    assert "about 4 times the devices" in dataclasses.replace(REPORT, over=200.0).report(0.5)


def command(tmp_path, *flags, path=""):
    (tmp_path / "tiny.py").write_text(TINY)
    return subprocess.run(
        [sys.executable, "-m", "stp_jax.compile_for", "--config", str(tmp_path / "tiny.py"), *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{path}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology", "v5e:2x2", "--mesh", "rows=2"), "--mesh rows=2: give sizes of data, fsdp"),
        (("--topology", "v5e:2x2", "--config", "nothing.py"), "--config nothing.py: there is no such file"),
        (("--mesh", "fsdp=2"), "--topology"),
        (("--topology", "gpu:8", "--mesh", "fsdp=8"), "gpu:8 needs a GPU of that kind; JAX sees none here"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, flags, message):
    for name in (*NO_POD, "XLA_PYTHON_CLIENT_PREALLOCATE"):  # as they were, after the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    (tmp_path / "tiny.py").write_text(TINY)
    monkeypatch.setattr(sys, "argv", ["compile_for", "--config", str(tmp_path / "tiny.py"), *flags])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("stp_jax.compile_for", run_name="__main__")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") <= 2, error


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="pip install 'stp-jax[tpu]' to compile for TPUs"
)


def test_a_missing_compiler_is_named():
    if importlib.util.find_spec("libtpu") is None:
        with pytest.raises(InputError, match=r"pip install 'stp-jax\[tpu\]'"):
            compiling.make_pod("v5e:2x2", {})


@needs_compiler
def test_a_small_step_compiles_for_a_pod(tmp_path):
    done = command(tmp_path, "--topology", "v5e:2x2", "--mesh", "fsdp=2", "sequence=2")
    assert done.returncode == 0, done.stderr
    assert "v5e:2x2, fsdp 2 x sequence 2, batch 2" in done.stdout and "of 16 GiB" in done.stdout
    state, peak = re.search(r"at most ([\d.]+) of 16 GiB, ([\d.]+) of them", done.stdout).groups()[::-1]
    assert float(state) <= float(peak) < 16


@needs_compiler
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology", "v5e:3x7x1"), "unknown"),
        (("--topology", "v5e:2x2", "--mesh", "fsdp=3"), "does not fill the 4 devices"),
    ],
)
def test_pods_that_cannot_be_are_refused(tmp_path, flags, message):
    done = command(tmp_path, *flags)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_other_configs_are_refused():
    config = wan_1_3b_plucker.get_config()
    config.data.kind = "cam_x_time"
    with pytest.raises(InputError, match="trains on latents"):
        compiling.compile_for("v5e:2x2", config, {})
