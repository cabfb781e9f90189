"""Makes a long video window by window: each goes on from what was made before it.

Cameras of all windows are in one world. Each window is conditioned as in training: cameras relative to the
first camera of its own source, which follows the clock, and animation times from there.

A model with a memory is given latent frames of all earlier windows (`memory_choice`). Every model is given
the frames that a window has in common with the one before: they are put in their place at the noise levels
of `given.lowest_known`, the noise is the same where windows overlap, the pictures go over from one to the
other, and what is left of a jump after them is spread over the frames beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from stp_jax.controls.cameras import DISTANCE
from stp_jax.controls.view import View
from stp_jax.files import naming, replace_file
from stp_jax.media import writing
from stp_jax.rerender import memory_choice
from stp_jax.rerender.windows import Windows, blend, without_jump

if TYPE_CHECKING:
    from stp_jax.rerender.given import Earlier
    from stp_jax.rerender.progress import Progress
    from stp_jax.rerender.rerenderer import Rerenderer

Choice = Literal["overlap", "recent", "none"]
MEMORY_SIGMA = 0.0  # noise level of a memory


class Piece(NamedTuple):
    """What a window leaves.

    Attributes:
      frames: uint8 or uint16 [n, H, W, 3], which are final.
      tail: [O, H, W, 3], which the next window begins with.
      latents: float32 [F', H', W', C].
      forwards: of the DiT, which it took, int [].
    """

    frames: np.ndarray
    tail: np.ndarray
    latents: np.ndarray
    forwards: np.ndarray


class Pieces:
    """The pieces of a long video, in a folder; each is there whole or not at all.

    In the host's memory are only those that are asked for.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, window: int) -> Path:
        return self.folder / f"{window:05d}.npz"

    def count(self) -> int:
        """The windows that are finished, from the first on."""
        count = 0
        while self.path(count).is_file():
            count += 1
        return count

    def write(self, window: int, piece: Piece) -> None:
        """Raises `OSError`, whose `filename` is the piece's."""
        with replace_file(self.path(window)) as partial:
            np.savez(partial, **piece._asdict())

    def read(self, window: int, part: str) -> np.ndarray:
        """A field of `Piece`, by its name."""
        with naming(self.path(window)), np.load(self.path(window)) as arrays:
            return arrays[part]


class LongVideo:
    """What is made, and from what.

    Args:
      model: of `windows.frames` frames.
      windows: the plan.
      read_source: makes source frames by their numbers, uint8 [F, H, W, 3].
      source, target: cameras in one world, and animation times, of all source frames and of all new frames.
      choice: of the memory: `overlap`, see `memory_choice`; `recent`, the last frames, or `none`, to compare.
      distance: metres to what the cameras look at, about.
      memory_sigma: noise level of the memory.
      in_place: whether frames that windows have in common are put in their place; False, to compare.
    """

    def __init__(
        self,
        model: Rerenderer,
        windows: Windows,
        read_source: Callable[[np.ndarray], np.ndarray],
        source: View,
        target: View,
        pieces: Pieces,
        *,
        seed: int = 0,
        prompt: str = "",
        negative_prompt: str | None = None,
        choice: Choice = "overlap",
        distance: float = DISTANCE,
        memory_sigma: float = MEMORY_SIGMA,
        in_place: bool = True,
    ):
        self._model, self._windows, self._read_source = model, windows, read_source
        self._source, self._target, self._pieces = source, target, pieces
        self._seed, self._texts = seed, {"prompt": prompt, "negative_prompt": negative_prompt}
        self._choice: Choice = choice if model.memory else "none"
        self._distance, self._memory_sigma, self._in_place = distance, memory_sigma, in_place

    def make(self, progress: Progress | None = None) -> Iterator[int]:
        """Makes the windows that are missing; yields the number of each when its piece is written."""
        for window in range(self._pieces.count(), len(self._windows.starts)):
            self._pieces.write(window, self._piece(window, progress))
            yield window

    def _piece(self, window: int, progress: Progress | None) -> Piece:
        plan = self._windows
        before = self._pieces.read(window - 1, "tail") if window else None
        source, target = self._views(window)
        video, latents = self._model.window(
            self._read_source(plan.source_frames(window)),
            source,
            target,
            self._earlier(window, before),
            seed=self._seed,
            progress=progress,
            **self._texts,
        )
        if before is not None:
            video = np.concatenate([blend(before, video[: len(before)]), video[len(before) :]])
            video = without_jump(video, len(before))
        video = video[: plan.length - plan.starts[window]]  # without repetitions of the last frame
        final = plan.new_until(window) - plan.starts[window]
        return Piece(video[:final], video[final:], latents, np.array(self._model.forwards))

    def _views(self, window: int) -> tuple[View, View]:
        """Of a window's source and target; animation times count from its first source frame."""
        first = self._windows.sources[window]
        source = self._source.at(self._windows.source_frames(window))
        target = self._target.at(self._windows.target_frames(window))
        return (
            source._replace(animation_time=source.animation_time - first),
            target._replace(animation_time=target.animation_time - first),
        )

    def _earlier(self, window: int, before: np.ndarray | None) -> Earlier:
        from stp_jax.rerender.given import Earlier

        frames = None
        if before is not None and self._in_place:
            frames = before if before.dtype == np.uint8 else writing.to_8_bits(before)
        memory = self._memory(window)
        if memory is None:
            return Earlier(self._noise(window), frames)
        return Earlier(self._noise(window), frames, *memory)

    def _noise(self, window: int) -> np.ndarray:
        """Noise [F', H', W', C]: where windows overlap that of the first one."""
        plan = self._windows
        latents = plan.starts[window] // 4 + np.arange(plan.latent_frames)
        owners = plan.owner(latents)
        drawn = {owner: self._fresh_noise(owner) for owner in np.unique(owners)}
        places = latents - plan.starts[owners] // 4
        return np.stack([drawn[owner][place] for owner, place in zip(owners, places, strict=True)])

    def _fresh_noise(self, window: int) -> np.ndarray:
        """A window's own noise; the first one's is that of a video of one window."""
        seed = (self._seed + 0x9E3779B1 * window) % 2**32  # far apart, so that seeds 0, 1, .. share none
        return self._model.noise(seed)[0]

    def _memory(self, window: int) -> tuple[np.ndarray, View] | None:
        """Latents [K, H', W', C] of earlier output, and their views, from the same zero as `_views`."""
        count, plan = self._model.memory, self._windows
        if self._choice == "none" or not window:
            return None
        earlier = 1 + np.arange(plan.starts[window - 1] // 4 + plan.latent_frames - 1)
        if self._choice == "recent":
            chosen = earlier[-count:]
        else:
            earlier = memory_choice.thinned(earlier)
            target = self._target.at(plan.target_frames(window)[::4])
            candidates = self._target.at(np.minimum(4 * earlier, plan.length - 1))
            chosen = earlier[memory_choice.choose(candidates, target, count, self._distance)]
        owners = plan.owner(chosen)
        places = chosen - plan.starts[owners] // 4
        latents = np.stack(
            [self._pieces.read(owner, "latents")[place] for owner, place in zip(owners, places, strict=True)]
        )
        if self._memory_sigma:
            noise = np.random.default_rng([self._seed, window]).standard_normal(latents.shape, np.float32)
            latents = (1 - self._memory_sigma) * latents + self._memory_sigma * noise
        frames = np.minimum((4 * chosen[:, None] + np.arange(-3, 1)).ravel(), plan.length - 1)
        view = self._target.at(frames)
        return latents, view._replace(animation_time=view.animation_time - plan.sources[window])
