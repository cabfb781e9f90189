"""Data sets and latent caches in object storage, which fsspec's memory:// stands for."""

import os

import fsspec
import numpy as np
import pytest
import synthetic

from input_pipeline import remote
from input_pipeline.config import default_config
from input_pipeline.datasets import cam_x_time
from input_pipeline.datasets.form import VERSION
from input_pipeline.datasets.reading import open_records
from input_pipeline.inspect import command as inspect
from input_pipeline.inspect.scenes import open_data
from input_pipeline.latents import LatentCache
from input_pipeline.memory_outputs import MemoryOutputs
from input_pipeline.pipeline import make_dataset
from input_pipeline.remote import RemoteFolder, is_remote, within
from stp_jax import embed_captions, sample_dataset
from stp_jax.controls.view import View
from stp_jax.encode_dataset import verify
from stp_jax.errors import InputError
from tests.input_pipeline.long_cache import CLIPS, FRAMES, SCENES, WINDOWS, K, write_long_cache


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    for index in range(2):
        synthetic.write_scene(folder / "scenes", f"scene_000000{index}", index)
    cam_x_time.main(["--scenes", str(folder / "scenes"), "--out", str(folder / "data")])
    return folder / "data"


@pytest.fixture(autouse=True)
def bucket(tmp_path, monkeypatch):
    """An empty bucket, and an empty folder of downloads."""
    monkeypatch.setenv("STP_JAX_DOWNLOADS", str(tmp_path / "downloads"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    return system


def first_batch(path):
    config = default_config()
    config.update(kind="cam_x_time", path=str(path), frames=5, height=8, width=16)
    return next(iter(make_dataset(config, split="train", seed=0, batch_size=2, read_threads=1)))


def names(folder) -> set[str]:
    return {file.name for file in folder.iterdir() if not file.name.startswith(".")}


@pytest.mark.parametrize("inner", ["", f"/cam_x_time/{VERSION}"])
def test_batches_of_a_remote_data_set_are_those_of_a_local_one(built, bucket, tmp_path, inner):
    bucket.put(str(built), "/bucket/data", recursive=True)
    local = first_batch(built)
    for path in (f"memory://bucket/data{inner}", f"file://{built}"):
        batch = first_batch(path)
        assert batch.keys() == local.keys()
        for key, value in local.items():
            np.testing.assert_array_equal(batch[key], value, key)
    (folder,) = (f for f in (tmp_path / "downloads").iterdir() if f.is_dir())
    assert any("array_record" in name for name in names(folder))


def test_files_are_downloaded_when_they_are_needed_and_once(built, bucket, monkeypatch):
    bucket.put(str(built), "/bucket/data", recursive=True)
    fetched = []
    get = remote._get
    monkeypatch.setattr(remote, "_get", lambda url, path: fetched.append(url) or get(url, path))
    records = open_records("memory://bucket/data", "cam_x_time", "train")
    assert len(records) == 2 and not any("array_record" in url for url in fetched)
    assert [record["scene"] for record in records] == [b"scene_0000000", b"scene_0000001"]
    again = open_records("memory://bucket/data", "cam_x_time", "train")
    assert again[1]["scene"] == b"scene_0000001" and len(fetched) == len(set(fetched)) == 3
    remote_again = RemoteFolder(f"memory://bucket/data/cam_x_time/{VERSION}")
    bucket.pipe(f"/bucket/data/cam_x_time/{VERSION}/more", b"built again")
    assert RemoteFolder(f"memory://bucket/data/cam_x_time/{VERSION}").local != remote_again.local


def test_a_latent_cache_is_downloaded(bucket, tmp_path):
    cache = LatentCache.create(
        tmp_path / "train", scenes=1, clips=2, frames=5, latent_shape=(2, 2, 2, 4), clips_per_path=1, meta={}
    )
    rng = np.random.default_rng(0)
    view = View(np.tile(np.eye(4), (2, 5, 1, 1)), rng.random((2, 5, 4)), rng.random((2, 5)))
    cache.write(0, rng.random((2, 2, 2, 2, 4)), view)
    bucket.put(str(tmp_path / "train"), "/bucket/latents/train", recursive=True)
    found = LatentCache.open(within("memory://bucket/latents/", "train"))
    rows = np.array([1, 0])
    for name, expected in LatentCache.open(tmp_path / "train").clips_at(rows).items():
        np.testing.assert_array_equal(found.clips_at(rows)[name], expected)


def test_batches_with_a_models_remote_output_are_those_with_a_local_one(bucket, tmp_path):
    write_long_cache(tmp_path / "long" / "train")
    cache = LatentCache.open(tmp_path / "long" / "train")
    made = MemoryOutputs.create(tmp_path / "outputs" / "train", cache, {"model": "test"})
    for scene in range(SCENES):
        latents = np.full((CLIPS, *cache.latent_shape), 100.0 + scene)
        made.write(scene, latents, np.zeros(CLIPS // WINDOWS))
    bucket.put(str(tmp_path / "long"), "/bucket/long", recursive=True)
    bucket.put(str(tmp_path / "outputs"), "/bucket/outputs", recursive=True)

    def batch(where, outputs="outputs"):
        config = default_config()
        config.update(kind="latents", path=f"{where}/long", frames=FRAMES)
        config.update(memory_frames=K, memory_share=1.0, memory_output_share=1.0)
        config.memory_outputs = f"{where}/{outputs}"
        return next(iter(make_dataset(config, split="train", seed=0, batch_size=2, read_threads=1)))

    local = batch(tmp_path)
    assert set(np.unique(local["memory_latents"])) <= {100.0, 101.0}
    for where in ("memory://bucket", f"file://{tmp_path}"):
        for name, expected in local.items():
            np.testing.assert_array_equal(batch(where)[name], expected, name)
    with pytest.raises(InputError, match="memory://bucket/none/train: there is no such bucket or folder"):
        batch("memory://bucket", "none")
    bucket.rm("/bucket/outputs/train/meta.json")
    with pytest.raises(InputError, match="memory outputs .*: not found"):
        batch("memory://bucket")


def test_the_folder_of_downloads_is_limited(bucket, tmp_path, monkeypatch):
    for place, name in enumerate("abc"):
        bucket.pipe(f"/bucket/{name}/file", bytes(400))
        folder = RemoteFolder(f"memory://bucket/{name}")
        folder.require(["file"])
        folder.fetch("file")
        os.utime(folder.local / ".used", (place, place))
    monkeypatch.setenv("STP_JAX_DOWNLOADS_GB", "1e-6")
    bucket.pipe("/bucket/d/file", bytes(600))
    RemoteFolder("memory://bucket/d").require(["file"])
    left = {folder.name[0] for folder in (tmp_path / "downloads").iterdir() if folder.is_dir()}
    assert left == {"c", "d"}
    bucket.pipe("/bucket/e/file", bytes(1001))
    with pytest.raises(InputError, match="/e: 1 kB would be downloaded .* STP_JAX_DOWNLOADS_GB"):
        remote.download("memory://bucket/e")
    monkeypatch.setenv("STP_JAX_DOWNLOADS_GB", "much")
    with pytest.raises(InputError, match="'much': give a number of GB"):
        remote.download("memory://bucket/e")


def test_inspect_opens_what_is_remote(built, bucket, tmp_path, capsys):
    bucket.put(str(built), "/bucket/data", recursive=True)
    given = ["memory://bucket/data", "--scenes", "1", "--out", str(tmp_path / "out")]
    inspect.main([*given, "--kind", "cam_x_time"])
    assert "data set memory://bucket/data, cam_x_time, split train" in capsys.readouterr().out
    assert "scene_000000_cameras.png" in names(tmp_path / "out")
    cache = LatentCache.create(
        tmp_path / "train", scenes=1, clips=2, frames=5, latent_shape=(2, 2, 2, 4), clips_per_path=1, meta={}
    )
    view = View(np.tile(np.eye(4), (2, 5, 1, 1)), np.ones((2, 5, 4)), np.zeros((2, 5)))
    cache.write(0, np.zeros((2, 2, 2, 2, 4)), view)
    bucket.put(str(tmp_path / "train"), "/bucket/latents/train", recursive=True)
    for url in ("memory://bucket/latents", "memory://bucket/latents/train"):
        name, found = open_data(url, None, "train")
        assert name == "latent cache memory://bucket/latents/train" and found.scenes == 1
    for kind, message in (
        (None, "of a data set in object storage give the name, too, with --kind"),
        ("multicam_video", "no data set of kind 'multicam_video' there"),
    ):
        with pytest.raises(InputError, match=message):
            open_data("memory://bucket/data", kind, "train")


def test_what_is_written_here_alone_is_not_given_as_a_url(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for main, flags in (
        (cam_x_time.main, ["--scenes", "a", "--out", "gs://bucket/data"]),
        (cam_x_time.main, ["--scenes", "s3://bucket/scenes", "--out", "a"]),
        (embed_captions.main, ["--weights", "a", "--data", "gs://bucket/data", "--out", "b"]),
        (verify.main, ["gs://bucket/latents"]),
        (sample_dataset.main, ["--weights", "a", "--data", "b", "--out", "gs://bucket/outputs"]),
    ):
        with pytest.raises(SystemExit):
            main(flags)
        assert "is not on this machine: give a local folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_one_line(bucket, monkeypatch):
    for path, message in (
        ("memory://bucket/none", "no such bucket or folder"),
        ("nosuch://bucket/none", "not known to fsspec"),
    ):
        with pytest.raises(InputError, match=message) as error:
            open_records(path, "cam_x_time", "train")
        assert "\n" not in str(error.value)
    for fault, message in (
        (PermissionError("Forbidden"), "access denied .*: set up credentials"),
        (RuntimeError("Unable to locate credentials"), "access denied"),
        (ImportError("Install s3fs to access S3"), "needs a package: pip install s3fs"),
        (ConnectionError("no route"), r"cannot be read \(no route\)"),
    ):

        def fail(url, fault=fault):
            raise fault

        monkeypatch.setattr(remote, "_open_system", fail)
        with pytest.raises(InputError, match=message):
            LatentCache.open("s3://bucket/latents/train")


def test_a_download_that_ends_early_leaves_no_file(bucket, monkeypatch):
    bucket.pipe("/bucket/a/file", bytes(400))
    folder = RemoteFolder("memory://bucket/a")
    monkeypatch.setattr(remote, "_get", lambda url, path: path.write_bytes(bytes(300)))
    with pytest.raises(InputError, match="300 bytes came of 400"):
        folder.fetch("file")
    assert not names(folder.local)


def test_paths():
    assert is_remote("gs://bucket/a") and is_remote("s3://bucket") and not is_remote("/a/b")
    assert not is_remote("file:///a") and not is_remote("C:/a") and not is_remote("a://b")
    assert str(within("file:///a", "train")) == "/a/train" and within("gs://b/", "train") == "gs://b/train"
