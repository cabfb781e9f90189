"""The config of a `SpaceTimeDiT`: its size, its conditioning, and what its backward pass keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from stp_jax.models import fp8_attention
from stp_jax.models.attention import keep_attention
from stp_jax.models.conditioning import ANIMATION_TIME_ENCODERS

BLOCK_INPUT = "block_input"
_to_host = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[BLOCK_INPUT],
    offload_src="device",
    offload_dst="pinned_host",
)


def offload_inputs(primitive, *avals, **parameters):
    """A rematerialisation policy: `keep_attention`, with the inputs of the blocks in the host's memory."""
    return keep_attention(primitive, *avals, **parameters) or _to_host(primitive, *avals, **parameters)


REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "attention": keep_attention,
    "offload": offload_inputs,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
CHOICES = {
    "camera": ("plucker", "pose12", "pose12_target", "none"),
    "animation_time": (*ANIMATION_TIME_ENCODERS, "official_conv", "none"),
    "rope_frames": ("stream", "shared", "animation_time"),
    "remat": tuple(REMAT_POLICIES),
    "sampling_attention": fp8_attention.MODES,
}

# Fields of earlier versions, with the value that says that a model did without.
RETIRED = {
    "animation_time_modulation": False,
    "camera_attention": "none",
    "prediction": "velocity",
    "value_residual": False,
    "source_patch": 0,
}

TEXT_TOKENS = 512  # of a prompt, most of them padding


def without_retired(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, without those that an earlier version alone had and the model did without."""
    return {name: v for name, v in fields.items() if name not in RETIRED or v != RETIRED[name]}


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Size and conditioning of a `SpaceTimeDiT`; the defaults are Wan2.1 1.3B with our encoders, textless.

    Attributes:
      channels: of the latents.
      patch: side of the square of latent cells that makes a token.
      freq_dim: of the sinusoids of timestep and animation time.
      text_dim: of the text encoder's embeddings; 0: the model takes no text.
      source: whether the source video's clean frames stand beside the target's.
      memory: latent frames of earlier output that may stand beside both, to continue a long video; 0: none.
        Training draws as many. A call without a memory costs what it costs a model of 0.
      flow_map: whether the model is also given the timestep at which a sampling step ends, and predicts the
        mean velocity between the two, see `stp_jax.flow_map`. False: the velocity at one timestep.
      camera: `plucker`, rays inside each token; `pose12`, the official encoder of poses, with a projector
        after self-attention; `pose12_target`, the same given the target's poses alone (ReCamMaster); `none`.
      animation_time: `frames`, all four of a latent frame; `uniform`, one of four; `official_conv`,
        SpaceTimePilot's; `none`.
      rope_frames: the position of a latent frame: `stream`, running on through the source (official);
        `shared` by target and source; `animation_time`, the one that it shows.
      conditioning_dim: width of our camera and animation-time embeddings.
      ray_samples: rays along the side of a token.
      scene_scale: metres that count as 1 in the Plücker moments of the rays.
      official_rounding: whether the timestep is rounded to bfloat16 before its sinusoid, as the official
        bfloat16 inference does (978.26 becomes 980). Needed to match its videos.
      lora_rank: of the matrices to train beside the blocks' attention and feed-forward kernels; 0: none.
      dtype: of the computation; norms, softmax and the modulation are float32.
      remat: what the backward pass keeps of the blocks: `none` recomputes nothing; `attention` keeps their
        inputs, and outputs and statistics of attention, the best trade of memory for time; `offload` the
        same, but the inputs in the memory of the host; `dots` all matrix products of parameters; `full` the
        inputs alone.
      unroll: whether a training step is compiled as one piece of code for each block instead of one loop over
        all. A loop with `remat="none"` writes every activation into a stack, which takes half of the step of
        a small model; unrolled code of a deep one takes minutes to compile.
      fused: whether norms and rotary embeddings run as kernels of our own where there are any, see
        `stp_jax.models.fused`: faster for small models, most of all with `unroll` and `remat="none"`, where
        the kernel of a norm also adds what the block before it computed.
      ffn_parts: of the tokens, that the feed-forward nets compute one after the other on a single device, to
        need less memory; their insides are then always recomputed.
      sampling_attention: self-attention while sampling: `exact`; `fp8`, faster for long videos on NVIDIA GPUs
        of Hopper's generation and later, see `fp8_attention`; `fp8_simulated`, for measurements.
      sampling_exact_blocks: first blocks, and as many last ones, that attend exactly all the same.
    """

    dim: int = 1536
    ffn_dim: int = 8960
    layers: int = 30
    heads: int = 12
    channels: int = 16
    patch: int = 2
    freq_dim: int = 256
    eps: float = 1e-6
    text_dim: int = 0
    source: bool = True
    memory: int = 0
    flow_map: bool = False
    camera: str = "plucker"
    animation_time: str = "frames"
    rope_frames: str = "animation_time"
    conditioning_dim: int = 256
    ray_samples: int = 2
    scene_scale: float = 4.0
    official_rounding: bool = False
    dtype: str = "bfloat16"
    remat: str = "none"
    unroll: bool = False
    fused: bool = False
    ffn_parts: int = 1
    lora_rank: int = 0
    sampling_attention: str = "exact"
    sampling_exact_blocks: int = 0

    def __post_init__(self):
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                chosen = getattr(self, field)
                raise ValueError(f"model.{field} is {chosen!r}; choose one of {', '.join(known)}")
        if self.fused and (self.lora_rank or self.text_dim or self.camera.startswith("pose12")):
            raise ValueError("model.fused has no kernels for lora_rank, text_dim and the pose12 cameras")
        if self.ffn_parts < 1:
            raise ValueError(f"model.ffn_parts is {self.ffn_parts}; it must be at least 1")
        if self.sampling_exact_blocks < 0:
            raise ValueError(
                f"model.sampling_exact_blocks is {self.sampling_exact_blocks}; it must be at least 0"
            )
        if self.dim % self.heads:
            raise ValueError(f"model.dim {self.dim} is not divisible by model.heads {self.heads}")
        if self.dim // self.heads % 2 or self.freq_dim % 2:
            raise ValueError("model.freq_dim and the width of a head, model.dim / model.heads, must be even")
        if not self.source and (self.camera, self.animation_time) != ("none", "none"):
            raise ValueError("model.source is False; then model.camera and model.animation_time must be none")
        if self.memory < 0:
            raise ValueError(f"model.memory is {self.memory}; give a number of latent frames, 0 for none")
        if self.memory and (self.camera != "plucker" or self.animation_time == "official_conv"):
            raise ValueError(
                "model.memory needs model.camera plucker, which distinguishes the clips, and an "
                "animation_time other than official_conv"
            )
        if self.rope_frames == "animation_time" and not self.source:
            raise ValueError(
                "model.rope_frames is animation_time, which a model without a source is not given"
            )

    def clip_tokens(self, latent_size: tuple[int, int, int], memory: int = 0) -> dict[str, int]:
        """The number of tokens of each clip; the target's latents are (F', H', W'), `memory` has K frames."""
        frames, height, width = latent_size
        counts = {"target": frames, "source": frames if self.source else 0, "memory": memory}
        return {clip: n * height * width // self.patch**2 for clip, n in counts.items() if n}
