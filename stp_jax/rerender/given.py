"""What a DiT is given beside the source's latents: views in its own convention, noise, and earlier output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from stp_jax import text
from stp_jax.controls.cameras import relative_to
from stp_jax.controls.view import View
from stp_jax.official.noise import official_noise
from stp_jax.official.poses import official_poses
from stp_jax.rerender.checks import check_shapes
from stp_jax.rerender.sampler import jax_noise
from stp_jax.weights.native import SamplingNotes

Embeddings = tuple[np.ndarray | None, np.ndarray | None]  # [B, T, D], of the prompts and of the negative one


class Earlier(NamedTuple):
    """Output before a window of a long video, and the window's noise; of one video, or of a batch.

    Attributes:
      noise: [F', H', W', C] that sampling starts from. None: as of a video of one window.
      frames: uint8 [O, H, W, 3], O = 4m + 1, of earlier output, which the window begins with.
      memory: latents [K, H', W', C] of earlier output. None: there is no memory.
      memory_view: their cameras, in the world of the others, and animation times, 4K entries.
    """

    noise: Any = None
    frames: Any = None
    memory: Any = None
    memory_view: View | None = None

    def as_batch(self) -> Earlier:
        """A batch of this one video."""
        noise, frames, memory = (None if one is None else np.asarray(one)[None] for one in self[:3])
        view = None if self.memory_view is None else self.memory_view.as_batch()
        return Earlier(noise, frames, memory, view)


NOTHING = Earlier()


def views(
    video: np.ndarray,
    source: View,
    target: View,
    memory: View | None,
    notes: SamplingNotes,
    *,
    official: bool,
) -> tuple[View, ...]:
    """Target, source and perhaps a memory with the poses that the DiT is conditioned on.

    Raises `InputError` for shapes.
    """
    same_cameras = target.c2w is None
    if same_cameras:
        target = View(source.c2w, source.intrinsics, target.animation_time)
    check_shapes(video, source, target, notes)
    reference = source.c2w[:, :1]
    if official:
        source_c2w, target_c2w = official_poses(
            source.c2w,
            None if same_cameras else target.c2w,
            scale_source=notes.sampling_scaled_poses and not same_cameras,
            target_reference=reference,
        )
    else:
        source_c2w, target_c2w = relative_to(source.c2w, reference), relative_to(target.c2w, reference)
    made = target._replace(c2w=target_c2w), source._replace(c2w=source_c2w)
    if memory is None:
        return made
    return *made, memory._replace(c2w=relative_to(memory.c2w, reference))


def lowest_known(known: Any, memory: int) -> float:
    """The noise level down to which frames of the window before are put in place, see `Sampler.sample`.

    A model with a memory has them there, too. It fits better if it may go on from them below 0.7, where there
    are several over which the pictures can go from one window to the other (docs/long_videos.md).

    Args:
      known: their latents [B, k, H', W', C], or None.
      memory: latent frames of the model's memory; 0: none.
    """
    return 0.7 if memory and known is not None and known.shape[1] > 1 else 0.0


def noise(seed: int, shape: tuple[int, ...], *, official: bool, dtype: str) -> np.ndarray:
    """The noise that sampling starts from, float32 [B, F', H', W', C]."""
    if not official:
        return np.asarray(jax_noise(seed, shape))
    drawn = official_noise(seed, shape)
    return (drawn.astype(jnp.bfloat16) if dtype == "bfloat16" else drawn).astype(np.float32)


def embed(
    encoder: Path | None,
    videos: int,
    prompt: str | Sequence[str],
    negative_prompt: str | None,
    *,
    guided: bool,
    dtype: str,
) -> Embeddings:
    """Embeddings of the prompts and, with guidance, of the negative prompt; of a model without text none."""
    if encoder is None:
        return None, None
    prompts = [prompt] * videos if isinstance(prompt, str) else list(prompt)
    negative = text.NEGATIVE_PROMPT if negative_prompt is None else negative_prompt
    embedded = text.embed([*prompts, *([negative] if guided else [])], encoder, dtype=dtype)
    positive = embedded[: len(prompts)]
    return positive, np.broadcast_to(embedded[-1:], positive.shape) if guided else None
