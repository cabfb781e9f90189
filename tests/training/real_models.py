"""Data of 16 x 16 pixels, and configs of the real models for them, which tests of the tasks share."""

import json
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import demo, demo_vae
from input_pipeline.datasets import cam_x_time
from stp_jax.weights import native
from tests.input_pipeline import synthetic

FRAMES, SIZE = 5, 16


def shrink(config: ConfigDict, data: Path) -> ConfigDict:
    for part in (config.data, config.pictures.data):
        part.update(path=str(data), frames=FRAMES, height=SIZE, width=SIZE)
    config.train.update(steps=2, batch_size=8, log_every=1, pictures_every=0, checkpoint_every=0)
    config.train.export_dtype = "float32"
    config.pictures.count = 1
    return config


def write_data(folder: Path, **changes) -> Path:
    for index, seed in enumerate((0, 1, 1_000_000)):
        name = f"scene_{seed:06d}"
        scene = synthetic.write_scene(folder / "scenes", name, index, cameras=3, **changes)
        for path in (scene / "videos").iterdir():
            rng = np.random.default_rng([index, int(path.stem[-1])])
            low = rng.integers(0, 255, (9, 2, 2, 3), dtype=np.uint8)
            path.unlink()
            synthetic.write_video(path, low.repeat(SIZE // 2, 1).repeat(SIZE // 2, 2))
    cam_x_time.main(["--scenes", str(folder / "scenes"), "--out", str(folder)])
    return folder


def vae_config(data: Path) -> ConfigDict:
    config = shrink(demo_vae.get_config(), data)
    config.model.update(dim=4, z_dim=4, dim_mult=(1, 1, 1), temporal_downsample=(True, True))
    config.model.update(latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4)
    config.optimizer.muon_parameters = r".*\.middle\..*kernel"  # a few: all take seconds more to compile
    config.statistics_batches = 2
    config.crop = 8
    return config


def dit_config(data: Path, vae: Path) -> ConfigDict:
    config = shrink(demo.get_config(), data)
    config.vae = str(vae)
    config.model.update(dim=48, ffn_dim=64, layers=1, heads=2, channels=4, freq_dim=16, conditioning_dim=16)
    config.model.remat = "none"
    config.optimizer.name = "adamw"  # simpler than the demo's own, which the first run of test_tasks.py has
    config.sampling.steps = 2
    return config


def mix(config: ConfigDict, **parts) -> None:
    """Trains on a mixture, in place of one data set."""
    config.data.path, config.data.mixture = "", parts


def save(folder: Path | str, name: str, params: dict[str, jax.Array], config: dict) -> None:
    native.save_weights(folder, name, {n: np.asarray(a) for n, a in params.items()}, config)


def logged(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
