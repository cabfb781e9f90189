"""The list of all measures, and the selection among them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from input_pipeline.shots import Scene
from stp_jax.errors import InputError
from stp_jax.evaluate.camera_features_measure import CameraFeatures
from stp_jax.evaluate.camera_measure import CameraFidelity
from stp_jax.evaluate.fvd_measure import FvdSmall
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.rows import unique
from stp_jax.evaluate.scene_cameras import SceneCameras
from stp_jax.evaluate.time_measures import Disentanglement, TimeFidelity
from stp_jax.user_input import unknown


def known_measures() -> list[Measure]:
    """Every measure there is, whether it is available or not."""
    cameras = SceneCameras()
    return [
        CameraFidelity(cameras),
        TimeFidelity(cameras),
        Disentanglement(),
        FvdSmall(),
        CameraFeatures(),
    ]


@contextlib.contextmanager
def closed_at_the_end(measures: Sequence[Measure]) -> Iterator[None]:
    """Frees what the measures hold, also after an error."""
    with contextlib.ExitStack() as stack:
        for measure in measures:
            stack.callback(measure.close)
        yield


def choose_available(
    measures: Sequence[Measure], scene: Scene, frames: int, named: bool
) -> tuple[list[Measure], dict[str, str]]:
    """The available measures, and by name the reasons why others, or parts of them, are left out.

    Args:
      scene, frames: as for `Measure.available`.
      named: whether the user named these measures.

    Raises:
      InputError: a measure that the user named is not available.
    """
    reasons = {m.name: m.available(scene, frames) for m in measures}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    if named and missing:
        raise InputError("; ".join(f"--measures {name}: {reason}" for name, reason in missing.items()))
    if not named:
        missing = {m.name: m.only_if_named for m in measures if m.only_if_named} | missing
    taken = [m for m in measures if m.name not in missing]
    for measure in taken:
        missing |= measure.parts_left_out()
    return taken, missing


def select(names: Sequence[str]) -> list[Measure]:
    """The measures of these names. Raises `InputError` where there is none of a name."""
    known = {measure.name: measure for measure in known_measures()}
    for name in names:
        if name not in known:
            raise unknown("measure", name, list(known))
    return [known[name] for name in unique(names)]
