"""`python -m stp_jax.encode_dataset`: a mistake is one line, and no cache is begun."""

import sys

import jax
import numpy as np
import pytest

from input_pipeline.datasets import cam_x_time
from input_pipeline.latents import LatentCache
from stp_jax.encode_dataset import command as encode_dataset
from stp_jax.models.vae import VAEConfig
from tests.input_pipeline import synthetic
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    synthetic.write_scene(folder / "scenes", "scene_000000", 0, cameras=3)
    cam_x_time.main(["--scenes", str(folder / "scenes"), "--out", str(folder / "data")])
    write_tiny_model(folder / "weights")
    (folder / "a_file").write_text("in the way")
    return folder


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--frames 6", "6 frames: the model takes 4n + 1, for instance 5 or 9"),
        ("--size 16 7", "16 x 7 pixels: the model takes multiples of 4"),
        ("--size 64 64", "videos of 16 x 8, smaller than data.width x data.height = 64 x 64"),
        ("--size 8 16", "videos of 16 x 8, smaller than data.width x data.height = 8 x 16"),
        ("--frames 1001", "5 source frames, but the config asks for frames = 1001"),
        ("--batch_size 0", "--batch_size: '0' is not a whole number"),
        ("--data {f}/nowhere", "nowhere: no such folder"),
        ("--vae {f}/scenes", "holds no weights of a VAE"),
        ("--out {f}/a_file", "a_file"),
        ("--out /proc/none", "/proc/none"),
    ],
)
def test_mistakes_are_one_line_and_begin_no_cache(files, tmp_path, monkeypatch, capsys, flags, message):
    good = f"--data {files}/data --vae {files}/weights --out {tmp_path}/out --frames 5 --size 16 8"
    arguments = f"{good} --clips_per_scene 2 --clips_per_path 1 {flags.format(f=files)}".split()
    monkeypatch.setattr(sys, "argv", ["encode_dataset", *arguments])
    with pytest.raises(SystemExit) as exit_:
        encode_dataset.main()
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_size_is_width_then_height_and_both_are_printed_by_name(files, tmp_path, monkeypatch, capsys):
    arguments = f"--data {files}/data --vae {files}/weights --out {tmp_path}/out --frames 5 --size 16 8"
    arguments += " --clips_per_scene 2 --clips_per_path 1 --batch_size 2 --fps 15 --static_reach 7"
    monkeypatch.setattr(sys, "argv", ["encode_dataset", *arguments.split()])
    encode_dataset.main()
    assert "2 clips of 5 frames, width 16, height 8 pixels" in capsys.readouterr().out
    cache = LatentCache.open(tmp_path / "out" / "train")
    noted = {name: cache.meta.get(name) for name in ("fps", "camera_extent", "static_reach", "scene_kind")}
    assert noted == {"fps": 15.0, "camera_extent": None, "static_reach": 7, "scene_kind": None}
    stride = VAEConfig(**cache.meta["vae"]).spatial_stride
    assert cache.latent_size == (8 // stride, 16 // stride)


def test_two_parts_make_the_cache_that_one_command_makes(files, tmp_path, capsys):
    options = dict(frames=5, size=(16, 8), clips_per_scene=2, clips_per_path=1, batch_size=2, passes=3)
    for name, shards in (("one", [(0, 1)]), ("two", [(1, 2), (0, 2), (1, 2)])):
        for shard in shards:
            encode_dataset.encode_dataset(
                str(files / "data"), str(files / "weights"), str(tmp_path / name), shard=shard, **options
            )
    assert "part 1/2 is complete" in capsys.readouterr().out
    one, two = (LatentCache.open(tmp_path / name / "train") for name in ("one", "two"))
    assert one.scenes == 3 and one.meta == two.meta
    for file in ("latents", "c2w", "animation_time", "checksums"):
        assert (one.path / f"{file}.npy").read_bytes() == (two.path / f"{file}.npy").read_bytes()


def test_devices_take_turns_and_give_what_one_gives(files):
    video = np.random.default_rng(0).integers(0, 256, (5, 5, 8, 16, 3), np.uint8)
    (_, on_all), (_, on_one) = (
        encode_dataset.make_encoder(str(files / "weights"), 2, devices)
        for devices in (jax.devices()[:2], jax.devices()[:1])
    )
    parts, expected = on_all(video), on_one(video)
    assert [part.devices() for part in parts] == [{jax.devices()[i]} for i in (0, 1, 0)]
    assert sum(len(part) for part in parts) == 5
    for part, other in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part, other)
