"""The task of a `VAE`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from stp_jax.errors import InputError
from stp_jax.models.parameters import bind
from stp_jax.models.vae import VAE, VAEConfig, from_pixels
from stp_jax.training.config import model_config
from stp_jax.training.state import graph_of, trained
from stp_jax.training.vae_loss import VAELossWeights, latent_statistics, vae_loss
from stp_jax.training.videos import psnr, rows
from stp_jax.weights import kinds, lpips, recognition


class VAETask:
    """Video through few latents and back; source and target of each example are two clips to learn from."""

    name = "vae"

    def __init__(self, config: ConfigDict):
        self.config = config
        for name in ("captions", "caption_dropout"):
            if config.data.get(name):
                raise InputError(
                    f"config.data.{name} is {config.data[name]}, but a VAE takes no text: leave it out."
                )
        largest = min(config.data.height, config.data.width)
        if not 0 <= config.crop <= largest:
            raise InputError(
                f"config.crop is {config.crop}; clips have room for 1 to {largest}, 0 keeps all."
            )
        self.model_config = model_config(VAEConfig, config.model)
        if jax.process_count() > 1:
            raise InputError("The VAE is trained by one process; its devices may be many.")
        self.loss_weights = VAELossWeights(**config.loss)
        self.tokens, self.flop = 0, 0.0
        self.frozen: dict[str, Any] = {}
        if self.loss_weights.perceptual:
            self.frozen["lpips"] = self._lpips_weights(config.crop or largest)
        self._statistics = self._kept_statistics()

    def _kept_statistics(self) -> dict[str, Any] | None:
        """Those of the weights `init_from`, where the encoder is not trained: a DiT knows such latents."""
        chosen = trained(kinds.shapes("vae", self.model_config), self.config.train.trainable)
        if not self.config.init_from or any(name.startswith(("encoder.", "conv1.")) for name in chosen):
            return None
        found = recognition.recognise(self.config.init_from, "vae").config
        return {"latent_mean": found.latent_mean, "latent_std": found.latent_std}

    def _lpips_weights(self, size: int) -> dict[str, Any]:
        weights = lpips.read()
        if weights is None:
            raise InputError(f"config.loss.perceptual needs LPIPS: {lpips.INSTALL}, or set it to 0.")
        if size < lpips.SMALLEST:
            raise InputError(
                f"config.loss.perceptual needs pictures of {lpips.SMALLEST} x {lpips.SMALLEST} at least, "
                f"not {size}."
            )
        return weights

    def init(self, rngs):
        return VAE(self.model_config, rngs=rngs)

    def check_start(self, config):
        pass  # its shapes say all

    def may_start_random(self, name):
        return False

    def may_leave_out(self, name):
        return False

    def frozen_for(self, data):
        return self.frozen

    def _video(self, batch):
        return from_pixels(jnp.concatenate([batch["source_video"], batch["target_video"]]))

    def loss(self, model, frozen, batch, key):
        crop_key, noise_key = jax.random.split(key)
        video = random_crop(self._video(batch), self.config.crop, crop_key)
        return vae_loss(model, video, noise_key, self.loss_weights, frozen.get("lpips"))

    def validation_loss(self, model, frozen, batch, key):
        return self.loss(model, frozen, batch, key)[0]

    def generator(self, sharding):
        graph = graph_of(self)

        def generate(params, frozen, batch, key):
            model, video = bind(graph, params), from_pixels(batch["target_video"])
            return {"target": video, "reconstruction": model.decode(model.encode(video))}

        return jax.jit(generate, out_shardings=sharding)

    def show(self, videos):
        names = ("target", "reconstruction")
        return rows(videos, names), {"psnr": psnr(videos["reconstruction"], videos["target"])}

    def with_flow(self, flow):
        raise InputError("config.train.validation: a VAE has no noise levels.")

    def to_export(self, params):
        return params

    def final_config(self, model, dataset):
        """The model's config with the mean and spread of its latents, measured on training data or kept."""
        if self._statistics is not None:
            return dataclasses.asdict(self.model_config) | self._statistics
        iterator = iter(dataset)
        batches = (jax.device_get(self._video(next(iterator))) for _ in range(self.config.statistics_batches))
        mean, std = latent_statistics(model, batches)
        iterator.close()
        return dataclasses.asdict(self.model_config) | {"latent_mean": mean, "latent_std": std}

    def notes(self):
        return {}

    def companions(self):
        return {}


def random_crop(video: jax.Array, size: int, key: jax.Array) -> jax.Array:
    """Cuts a square of `size` pixels out of each clip `[B, F, H, W, 3]`, each at its own place; 0: all."""
    if not size:
        return video
    b, f, h, w, c = video.shape
    corners = jax.random.randint(key, (b, 2), 0, jnp.array([h - size + 1, w - size + 1]))
    cut = lambda clip, corner: jax.lax.dynamic_slice(clip, (0, *corner, 0), (f, size, size, c))  # noqa: E731
    return jax.vmap(cut)(video, corners)
