"""The settings of a data set, or of a mixture of several."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

DEPTH_STRIDE = 8  # pixels along the side of a square that has one value of depth
CAMERA_EXTENT = 1.2  # metres, see `SetConfig.camera_extent`; as of the rigs of rendered scenes


@dataclasses.dataclass(frozen=True)
class ModesConfig:
    """Weights of what changes from source to target.

    In a latent cache the share of forward targets is fixed by its encoding (1 / clips_per_path); the ratio of
    time_only to both applies to the other targets.
    """

    time_only: float = 0.3  # the animation time, on the same camera path
    camera_only: float = 0.3  # the camera path, in forward time
    both: float = 0.4


@dataclasses.dataclass(frozen=True)
class SetConfig:
    """The settings of one data set."""

    kind: str = "cam_x_time"  # the name of a data set, as of the builder that made it; or "latents"
    path: str = ""  # folder of the built data set, or of the latent caches of its splits
    modes: ModesConfig = ModesConfig()  # of scenes of kind `single` time_only alone counts
    # How a full grid is used: "grid", "synchronised" or "static", see `pairs.RULES`. A latent cache must have
    # been encoded with the same rules.
    rules: str = "grid"
    # Whether animation time is warped at all. False: it runs forward in source and target, whatever `modes`
    # and `source_warp` say; of a latent cache only the forward clips are used.
    warp: bool = True
    # Probability that the source is warped, too; in caches of long paths it always runs forward.
    source_warp: float = 0.1
    flip: bool = False  # mirror half of the pairs, pictures and cameras alike
    permute_channels: bool = False  # shuffle R, G and B, for renders with arbitrary colours
    # Source frames in a second, at most; 0: as filmed. See `fitting.stride`.
    fps: float = 0.0
    # Scenes without metres are scaled until their cameras extend this many metres, see `fitting.scale`.
    camera_extent: float = CAMERA_EXTENT
    # Frames of a static scene's videos within which both camera paths of a pair lie; 0: all. Frames that are
    # far apart may have nothing of the scene in common.
    static_reach: int = 0
    # What becomes of scenes that are too short for a clip. False: they are an error. True: the next scene of
    # the data set that is long enough takes the place of each.
    skip_short: bool = False
    pairs_per_scene: int = 8  # pairs drawn from a scene in an epoch: decoding it is the costly part
    scenes_at_once: int = 16  # scenes that alternate, so that neighbouring examples are of different scenes
    cached_scenes: int = 32  # decoded scenes kept per process: 28 MB for 17 cameras x 33 times, 128 px
    # GB of decoded pictures kept per process. Where `scenes_at_once` scenes take more, none are kept, and
    # those of each pair are decoded for it alone: docs/data.md.
    cached_gb: float = 2.0


@dataclasses.dataclass(frozen=True)
class PartConfig(SetConfig):
    """A data set of a mixture. Fields that a part does not have are those of `config.data`."""

    weight: float = 1.0  # share of the examples, in relation to the other parts; 0: not used
    split: str = ""  # to read instead of the split "train"


@dataclasses.dataclass(frozen=True)
class DataConfig(SetConfig):
    """The pipeline's settings; `kind` and `path`, or `mixture`, must be given.

    `pipeline.check_config` checks them.
    """

    # A latent cache of the built data set, or none: sources come from it, so that only targets are decoded
    # and encoded, with new camera paths and warps each time.
    source_latents: str = ""
    frames: int = 17  # F
    height: int = 128
    width: int = 128
    # Latent frames of a memory, 0 for none, and the share of the batches that have one. Their targets are
    # drawn with replacement from the clips that continue others in a latent cache of long paths: memory_path,
    # or path if that is empty.
    memory_frames: int = 0
    memory_share: float = 0.5
    memory_path: str = ""
    # Folder that `python -m stp_jax.sample_dataset` wrote: this share of the memories is then a model's own
    # output, with its errors, and not true latents.
    memory_outputs: str = ""
    memory_output_share: float = 0.5
    # Folder that `python -m stp_jax.embed_captions` wrote: each example is given one of its scene's captions.
    # Scenes without, and this share of the examples, are given the first prompt of `config.text` instead.
    captions: str = ""
    caption_dropout: float = 0.0  # 0.1 for a model that is to be sampled with guidance
    # Above 0: examples have the coarse depth of their frames. In training it follows config.loss.depth.
    depth: float = 0.0
    # Data sets by name, each with fields of `PartConfig`, in place of `path`: docs/mixtures.md.
    mixture: dict[str, Any] = dataclasses.field(default_factory=dict, metadata={"parts": PartConfig})


# Fields that are fixed when a latent cache is encoded, with their defaults; its meta.json has other values.
FIT_FIELDS = {"fps": 0.0, "camera_extent": CAMERA_EXTENT, "static_reach": 0}


def default_config() -> ConfigDict:
    """`DataConfig` as a `ConfigDict`."""
    return ConfigDict(dataclasses.asdict(DataConfig()))
