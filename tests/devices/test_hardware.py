"""Setting up devices beside Python's imports."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import jax
import pytest

from stp_jax.devices import hardware
from tests.environment import environment


def set_up():
    hardware.set_up_devices()
    for thread in threading.enumerate():
        if thread.name == "devices":
            thread.join()


@pytest.mark.parametrize("full", [False, True])
def test_the_memory_of_the_first_gpu_alone_is_set_up(full, monkeypatch):
    """Where it is full, that is raised where it is next used, not in the thread."""
    gpus, given = [SimpleNamespace(platform="gpu", number=number) for number in range(2)], []

    def put(array, device):
        given.append(device.number)
        if full:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return jax.numpy.asarray(array)

    monkeypatch.setattr(jax, "local_devices", lambda: gpus)
    monkeypatch.setattr(jax, "device_put", put)
    set_up()
    assert given == [0]


def test_the_memory_of_a_cpu_is_left_alone(monkeypatch):
    monkeypatch.setattr(jax, "device_put", lambda *_: pytest.fail("nothing to set up"))
    set_up()


def test_what_goes_wrong_is_raised_where_devices_are_asked_for():
    code = "from stp_jax.devices import hardware; hardware.set_up_devices(); import jax; jax.devices()"
    none_such = environment(1) | {"JAX_PLATFORMS": "none_such"}
    done = subprocess.run([sys.executable, "-c", code], env=none_such, capture_output=True, text=True)
    assert done.returncode == 1 and "Exception in thread" not in done.stderr
    assert "RuntimeError" in done.stderr and "none_such" in done.stderr
