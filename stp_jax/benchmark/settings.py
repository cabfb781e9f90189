"""Settings of the benchmark: the models and the size of the video, at full size and for a try-out."""

from __future__ import annotations

import dataclasses
import os

from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.models.vae import VAEConfig

SPACETIMEPILOT = DiTConfig(
    text_dim=4096, camera="pose12", animation_time="official_conv", rope_frames="stream"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The models to measure, and the size of the video in pixels."""

    dit: DiTConfig
    vae: VAEConfig
    text: TextEncoderConfig = TextEncoderConfig()
    frames: int = 81
    height: int = 480
    width: int = 832
    repeats: int = 3
    profile: int = 0  # kernels to list
    attention: str | None = None  # backend

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """(F', H', W') of the video's latents."""
        return self.vae.latent_size(self.frames, self.height, self.width)


SMALL = Settings(
    DiTConfig(dim=64, ffn_dim=128, layers=2, heads=2, channels=4, freq_dim=32, text_dim=16, dtype="float32"),
    VAEConfig(dim=8, z_dim=4, res_blocks=1, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4),
    TextEncoderConfig(vocab=50, dim=16, attn_dim=16, heads=2, ffn_dim=32, layers=2, dtype="float32"),
    frames=9,
    height=32,
    width=32,
    repeats=2,
)


def refuse_existing(out: str | None) -> None:
    """Raises `InputError` where the file of `--out` exists: before anything is measured."""
    if out and os.path.exists(out):
        raise InputError(f"--out {out}: exists already; name another file")
