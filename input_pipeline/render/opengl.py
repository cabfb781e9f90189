"""Finds an OpenGL library for MuJoCo, before `mujoco` is imported: it reads MUJOCO_GL then, and only then."""

from __future__ import annotations

import ctypes.util
import os

from stp_jax.errors import InputError

_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}  # in order of preference
INSTALL = "apt-get install -y libegl1 libgl1-mesa-dri libosmesa6"


def choose_backend() -> str:
    """Sets MUJOCO_GL, for this process and those it starts, to a backend whose library is there.

    A value that is set already is kept. PYOPENGL_PLATFORM is made to agree, as MuJoCo demands.

    Raises:
      InputError: no OpenGL library; says what to install.
    """
    backend = os.environ.get("MUJOCO_GL", "").lower()
    if not backend:
        found = [name for name, library in _LIBRARIES.items() if ctypes.util.find_library(library)]
        if not found:
            raise InputError(f"rendering needs an OpenGL library (EGL or OSMesa): {INSTALL}")
        backend = found[0]
    elif backend in _LIBRARIES and not ctypes.util.find_library(_LIBRARIES[backend]):
        raise InputError(f"MUJOCO_GL={backend}, but lib{_LIBRARIES[backend]} is not installed: {INSTALL}")
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = backend
    return backend
