"""The interface of what can be trained: how the model is made, its loss, and what to show of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import grain
import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from stp_jax.models.parameters import Params

Batch = dict[str, jax.Array]
Generate = Callable[[Params, dict[str, Any], Batch, jax.Array], dict[str, jax.Array]]


class Task(Protocol):
    """One kind of model to train. `frozen` are weights that it uses but does not train."""

    name: str  # of the weights: `dit`, `vae`
    frozen: dict[str, Any]
    tokens: int  # of an example; 0 for a model without tokens
    flop: float  # of an example, forward and backward without recomputation; 0: not known

    def init(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model with random parameters."""

    def check_start(self, config: Any) -> None:
        """Raises `InputError` where weights of a model of this config would fit, but mean something else."""

    def may_start_random(self, name: str) -> bool:
        """Whether the weights that training starts from may lack this parameter."""

    def may_leave_out(self, name: str) -> bool:
        """Whether training may start without this parameter of the weights, which the model lacks."""

    def frozen_for(self, data: ConfigDict) -> dict[str, Any]:
        """The part of `frozen` that `loss` reads on examples of this kind of data."""

    def loss(
        self, model: Any, frozen: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The float32 loss on a batch and further numbers to log; runs inside jit."""

    def validation_loss(self, model: Any, frozen: Params, batch: Batch, key: jax.Array) -> jax.Array:
        """The float32 loss on a batch of held-out examples; runs inside jit."""

    def generator(self, sharding: NamedSharding) -> Generate:
        """Returns `generate(params, frozen, batch, key)`: videos by name, `[B, F, H, W, 3]` in [-1, 1].

        `generate` compiles what it needs, and its arrays have this sharding.
        """

    def show(self, videos: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """From the result of `generate`: uint8 videos `[F, H, W, 3]` by label, and figures by name."""

    def with_flow(self, flow: ConfigDict) -> Task:
        """The same task with other noise levels in its loss."""

    def to_export(self, params: Params) -> Params:
        """The parameters as they are exported, with LoRA merged."""

    def final_config(self, model: Any, dataset: grain.IterDataset) -> dict[str, Any]:
        """The config that is saved with the model's weights."""

    def notes(self) -> dict[str, Any]:
        """Notes that are saved with the weights, such as how to sample."""

    def companions(self) -> dict[str, tuple[Params, dict[str, Any]]]:
        """Weights and config of the frozen models, by name, that belong beside the trained one."""
