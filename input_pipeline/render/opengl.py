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
