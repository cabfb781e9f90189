"""What is said of memory and disks that run out; exit statuses: with real processes in tests/training."""

import errno
import os
import signal

import jax
import pytest

from stp_jax.devices.supervisor import exit_as, in_pieces
from stp_jax.errors import InputError

GIB = 2**30
REASON = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 41.65GiB with allocator GPU_0_bfc"


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
