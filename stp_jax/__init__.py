"""Re-renders a video along any camera path and any animation time.

    from stp_jax import Rerenderer, View, cameras, curve, read_video, write_video
    from stp_jax.media import fit_clip

    model = Rerenderer("weights")  # written by train.py, or official; Rerenderer() is the bundled model
    frames, height, width, *_ = model.notes
    clip = fit_clip(*read_video("clip.mp4"), frames, height, width)
    source = View(*cameras.preset("static", frames), curve("forward", frames))
    target = View(*cameras.preset("orbit_left:30:-15", frames), curve("bullet_time", frames))
    result = model(clip.frames, source, target, seed=1)
    write_video("result.mp4", result, clip.fps)

Names are imported when they are first used, so that `import stp_jax` takes no time and loads no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stp_jax.controls import cameras
    from stp_jax.controls.animation_time import curve
    from stp_jax.controls.view import View
    from stp_jax.media import read_video, write_video
    from stp_jax.rerender.rerenderer import Rerenderer

__all__ = ["Rerenderer", "View", "cameras", "curve", "read_video", "write_video"]

# name: (module, attribute of it; None: the module itself)
_PLACES = {
    "Rerenderer": ("stp_jax.rerender.rerenderer", "Rerenderer"),
    "View": ("stp_jax.controls.view", "View"),
    "cameras": ("stp_jax.controls.cameras", None),
    "curve": ("stp_jax.controls.animation_time", "curve"),
    "read_video": ("stp_jax.media", "read_video"),
    "write_video": ("stp_jax.media", "write_video"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place, attribute = _PLACES[name]
    module = importlib.import_module(place)
    return getattr(module, attribute) if attribute else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
