"""What is said of memory and disks that run out; exit statuses: with real processes in tests/training."""

import errno
import os
import signal
import subprocess
import sys

import jax
import pytest

from stp_jax.devices.supervisor import exit_as, in_pieces
from stp_jax.errors import InputError
from tests.environment import environment

GIB = 2**30
REASON = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 41.65GiB with allocator GPU_0_bfc"


# Its child says which signal came, and ends accordingly.
PROGRAM = """
import signal, sys
from stp_jax.devices.supervisor import is_child, run_as_child
if not is_child():
    sys.exit(run_as_child())
signals = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print("waiting", flush=True)
number = signal.sigwait(signals)
print(number.name)
sys.exit(0 if number == signal.SIGINT else 128 + number)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_signals_reach_the_process_that_computes_and_its_status_is_the_commands(tmp_path, number, status):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, tmp_path / "program.py"]
    with subprocess.Popen(command, env=environment(1), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        assert process.stdout.read() == f"{number.name}\n"
    assert process.returncode == status


@pytest.mark.parametrize(
    "reason, free, added",
    [
        (REASON, 58 * GIB, " (58.0 GiB are free, but not in one piece)"),
        (REASON, 12 * GIB, ""),
        ("RESOURCE_EXHAUSTED: Out of memory", 58 * GIB, ""),
    ],
)
def test_memory_in_pieces_is_told_from_memory_that_is_too_small(reason, free, added):
    assert in_pieces(reason, free) == added


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_a_mistake_in_each_of_several_processes(processes, monkeypatch, capsys):
    def work():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/metrics.jsonl")

    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(os, "_exit", end)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit if processes > 1 else InputError) as raised:
        exit_as(work)
    signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err if processes > 1 else str(raised.value)
    assert "runs/metrics.jsonl cannot be written: No space left on device" in said
