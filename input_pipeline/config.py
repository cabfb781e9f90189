"""The settings of a data set."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict


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
class DataConfig:
    """The pipeline's settings; `kind` and `path` must be given. `pipeline.check_config` checks them."""

    kind: str = "cam_x_time"  # the name of a data set, as of the builder that made it; or "latents"
    path: str = ""  # folder of the built data set, or of the latent caches of its splits
    # A latent cache of the built data set, or none: sources come from it, so that only targets are decoded
    # and encoded, with new camera paths and warps each time.
    source_latents: str = ""
    frames: int = 17  # F
    height: int = 128
    width: int = 128
    modes: ModesConfig = ModesConfig()
    # How a full grid is used: "grid", "synchronised" or "static", see `pairs.RULES`. A latent cache must have
    # been encoded with the same rules.
    rules: str = "grid"
    # Whether animation time is warped at all. False: it runs forward in source and target, whatever `modes`
    # and `source_warp` say; of a latent cache only the forward clips are used.
    warp: bool = True
    # Probability that the source is warped, too; in caches of long paths it always runs forward.
    source_warp: float = 0.1
    # Latent frames of a memory, 0 for none, and the share of the batches that have one. Their targets are
    # drawn with replacement from the clips that continue others in a latent cache of long paths: memory_path,
    # or path if that is empty.
    memory_frames: int = 0
    memory_share: float = 0.5
    memory_path: str = ""
    flip: bool = False  # mirror half of the pairs, pictures and cameras alike
    permute_channels: bool = False  # shuffle R, G and B, for renders with arbitrary colours
    pairs_per_scene: int = 8  # pairs drawn from a scene in an epoch: decoding it is the costly part
    scenes_at_once: int = 16  # scenes that alternate, so that neighbouring examples are of different scenes
    cached_scenes: int = 32  # decoded scenes kept per process: 28 MB for 17 cameras x 33 times, 128 px


def default_config() -> ConfigDict:
    """`DataConfig` as a `ConfigDict`."""
    return ConfigDict(dataclasses.asdict(DataConfig()))
