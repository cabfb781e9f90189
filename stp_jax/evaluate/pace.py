"""How long an evaluation takes: said before it starts, and again as measured on its first scene."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from tqdm import tqdm

from stp_jax.devices.hardware import compile_seconds
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.scores import Model, methods_of
from stp_jax.rerender.rerenderer import Rerenderer

# Of the speed of one large matrix product, what the demo model reached on two cores: 22.6 of 40 GFLOP/s.
EFFICIENCY = 0.55
LPIPS_SECONDS = 0.2  # of one core, for a video as in `Measure.seconds`
_USUAL = 17 * 128 * 128
PRODUCTS = 0.2  # seconds that the speed of a product is measured for


class Pace:
    """Moves a bar, and says after the first videos how long the rest takes, as measured on these.

    Compiling belongs to the first videos alone, and is left out of the measurement.
    """

    def __init__(self, bar: tqdm, first: int = 1):
        """`first`: the number of videos to judge by; where several are made at a time, one says little."""
        self._bar, self._before, self._first, self._said = bar, bar.n, first, False
        self._started, self._compiled = time.monotonic(), compile_seconds()

    def update(self, videos: int) -> None:
        if self._bar.desc:
            self._bar.set_description_str("")
        self._bar.update(videos)

    def say(self) -> None:
        """To be called when a scene is complete."""
        made, left = self._bar.n - self._before, self._bar.total - self._bar.n
        if self._said or made < self._first:
            return
        self._said = True
        compiling = compile_seconds() - self._compiled
        seconds = max(0.0, time.monotonic() - self._started - compiling)
        self._bar.start_t = self._bar._time() - seconds
        if left:
            tqdm.write(
                f"The first {made} videos took {duration(seconds)}, and compiling {duration(compiling)}: "
                f"the other {left} will take about {duration(seconds / made * left)}."
            )


def duration(seconds: float) -> str:
    """Seconds as text, in whole seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def plan(scenes: int, done: int, videos: int, seconds: float | None, measures: float = 0.0) -> str:
    """The sentences to begin with.

    Args:
      done: scenes of an interrupted evaluation.
      videos: of a scene.
      seconds: that the videos of a scene take, see `seconds_of_a_video`.
      measures: seconds that measuring a scene takes, see `seconds_of_measures`.
    """
    text = f"{scenes} scenes, {videos} videos each: {scenes * videos} videos in all"
    text = f"{text}, of which {done * videos} are done" if done else text
    if seconds is None or done >= scenes:
        return f"{text}."
    made, measured = (duration((scenes - done) * one) for one in (seconds, measures))
    return (
        f"{text}.\nThe videos take about {made} on this CPU, compiling a minute or two, measures about "
        f"{measured} (by their usual pace). The first scene tells more."
    )


def seconds_of_measures(
    measures: Sequence[Measure], models: Sequence[Model], lpips: bool, workers: int = 0
) -> float:
    """About how long measuring takes for a case: what is usual on one core, by the size of the videos.

    PSNR and SSIM take far less than the models.

    Args:
      lpips: whether it is measured, too.
      workers: processes that measure at a time what the device does not.
    """
    sizes = [model.size for model in models if model.size]
    scale = math.prod(sizes[0]) / _USUAL if sizes else 1.0
    on_device = LPIPS_SECONDS * len(methods_of(models)) if lpips else 0.0
    elsewhere = 0.0
    for measure in measures:
        seconds = measure.seconds * (len(models) + 1 + measure.degraded)  # and the ground truth
        on_device += seconds * measure.on_device
        elsewhere += seconds * (not measure.on_device)
    return scale * (on_device + elsewhere / max(1, workers))


def seconds_of_a_video(models: Sequence[Model]) -> float | None:
    """About how long all models together take for a video each, with the VAE's ceilings.

    From the number of operations and the speed of a matrix product as in the DiT. None where that says
    nothing: on other devices than CPUs, and for models that are no `Rerenderer`.
    """
    if jax.default_backend() != "cpu":
        return None
    seconds, ceilings = 0.0, set()
    for model in models:
        if not isinstance(model.rerender, Rerenderer):
            continue
        steps, vae = model.rerender.flop()
        if model.reconstruct is not None and model.vae not in ceilings:
            ceilings.add(model.vae)
            steps += vae
        seconds += (steps + vae) / (EFFICIENCY * product_speed(*model.rerender.matmul_shape()))
    return seconds or None


def product_speed(rows: int, columns: int, outputs: int) -> float:
    """Multiplications and additions a second in a float32 product, measured for `PRODUCTS` seconds."""
    product = jax.jit(jnp.matmul)
    a, b = jnp.ones((rows, columns)), jnp.ones((columns, outputs))
    product(a, b).block_until_ready()
    started, done = time.monotonic(), 0
    while time.monotonic() - started < PRODUCTS or not done:
        product(a, b).block_until_ready()
        done += 1
    return 2.0 * rows * columns * outputs * done / (time.monotonic() - started)
