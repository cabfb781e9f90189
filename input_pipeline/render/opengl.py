"""Finds an OpenGL library that MuJoCo can draw with, before `mujoco` is imported: it chooses then, once."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from stp_jax.errors import InputError

BACKENDS = ("egl", "osmesa")  # in order of preference: on the GPU, then in software
INSTALL = "apt-get install -y libegl1 libgl1-mesa-dri libosmesa6"
_TRY = "import mujoco; context = mujoco.GLContext(16, 16); context.make_current(); context.free()"


_COUNT = """
from mujoco.egl import egl_ext
from OpenGL.EGL.EXT.device_query import eglQueryDeviceStringEXT
extensions = [eglQueryDeviceStringEXT(device, 0x3055) for device in egl_ext.eglQueryDevicesEXT(64)]
print(sum(b"EGL_MESA_device_software" not in (names or b"") for names in extensions))
"""


@functools.cache
def _hardware_devices() -> int:
    """How many devices EGL lists that are not the software renderer; asked in another process, as above."""
    answer = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.stdout.strip().isdigit() else 0


def gpus_to_draw_with(count: int | None = None) -> list[int]:
    """Values of MUJOCO_EGL_DEVICE_ID: the GPUs that a context opens on, of those in CUDA_VISIBLE_DEVICES.

    Empty where a variable MUJOCO_EGL_DEVICE_ID chooses already, or the backend, which `choose_backend` must
    have set, draws in software.

    Args:
      count: how many to use; by default all.

    Raises:
      InputError: there are fewer than `count`.
    """
    found: list[int] = []
    if os.environ.get("MUJOCO_GL") == "egl" and "MUJOCO_EGL_DEVICE_ID" not in os.environ:
        hardware = _hardware_devices()
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        numbers = range(min(hardware, len(visible)) if visible else hardware)
        # A container may list GPUs that it may not open.
        trials = [
            subprocess.Popen(
                [sys.executable, "-c", _TRY],
                env=os.environ | {"MUJOCO_EGL_DEVICE_ID": str(number)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in numbers
        ]
        found = [number for number, trial in zip(numbers, trials, strict=True) if trial.wait() == 0]
    if count is not None and not 0 <= count <= len(found):
        raise InputError(f"--gpus {count}: EGL finds {len(found)}.")
    return found[:count]


@functools.cache
def choose_backend() -> str:
    """Sets MUJOCO_GL to a backend that works, for this process and those that it starts, and returns it.

    Where MUJOCO_GL is set already, only that backend is tried.

    Raises:
      InputError: mujoco is not installed, or no OpenGL library works; says what to install.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    reason = ""
    for backend in [wanted] if wanted else BACKENDS:
        # In another process, because MuJoCo and OpenGL settle on a library when they are imported.
        environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
        trial = subprocess.run(
            [sys.executable, "-c", _TRY], env=environment, capture_output=True, text=True, check=False
        )
        if trial.returncode == 0:
            os.environ.update(environment)
            return backend
        errors = [line for line in trial.stderr.splitlines() if "Error" in line and line[0] != " "]
        reason = errors[0] if errors else f"status {trial.returncode}"
        if "No module named 'mujoco'" in reason:
            raise InputError("rendering needs MuJoCo: pip install 'stp-jax[render]'")
    tried = f"MUJOCO_GL={wanted}" if wanted else " and ".join(BACKENDS)
    raise InputError(f"no OpenGL library to render with ({tried}: {reason}).\nInstall one: {INSTALL}")
