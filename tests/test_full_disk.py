"""A disk that fills ends in one line that names the file, and leaves nothing that looks complete.

The stand-in for the disk is a limit of a file's size (RLIMIT_FSIZE), which needs no rights.
"""

import contextlib
import dataclasses
import errno
import json
import os
import resource

import jax
import numpy as np
import pytest

from input_pipeline.datasets.cam_x_time import CamXTime
from input_pipeline.datasets.records import build
from input_pipeline.latents import LatentCache
from input_pipeline.render import grid
from stp_jax import text
from stp_jax.controls.view import View
from stp_jax.devices import hardware
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.evaluate.cases import BOTH, CAMERA, TIME
from stp_jax.evaluate.report import Report
from stp_jax.evaluate.rows import BASELINES, Row
from stp_jax.export.files import new_folder, write_safetensors
from stp_jax.files import replace_file
from stp_jax.weights import native
from tests.tiny_model import VAE_CONFIG

GROUPS = (TIME, CAMERA, BOTH)
FULL = os.strerror(errno.EFBIG)
NOISE = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)


@contextlib.contextmanager
def full(room: int = 1000):
    """Files cannot grow beyond `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def create(path):
    shape = {"scenes": 2, "clips": 2, "frames": 5, "latent_shape": (2, 4, 4, 4), "clips_per_path": 1}
    return LatentCache.create(path, **shape, meta={})


def test_a_command_ends_with_the_name_of_the_file(tmp_path, capsys):
    @exit_on_input_error
    def main():
        with full(), replace_file(tmp_path / "numbers.json") as partial:
            partial.write_text("1" * 2000)

    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and not names(tmp_path)
    assert error.startswith(f"error: {tmp_path / 'numbers.json'} cannot be written: {FULL}. Free some space")


def test_a_fault_of_the_program_stays_one():
    @exit_on_input_error
    def main():
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    with pytest.raises(ConnectionResetError):
        main()


def test_a_latent_cache_without_room_leaves_nothing(tmp_path):
    with full(), pytest.raises(InputError, match=rf"latent cache .*l: cannot be written \({FULL}\)"):
        create(tmp_path / "l")
    assert not names(tmp_path)
    create(tmp_path / "l")  # the folder is still free


def test_a_scene_of_a_latent_cache_without_room_is_not_complete(tmp_path):
    cache = create(tmp_path / "l")
    clips, frames = (2, 5), np.arange(5, dtype=np.float32)
    view = View(np.tile(np.eye(4), (*clips, 1, 1)), np.ones((*clips, 4)), np.tile(frames, (2, 1)))
    latents = np.ones((2, 2, 4, 4, 4))
    cache.write(0, latents, view)
    with full(), pytest.raises(InputError, match=rf"latents.npy cannot be written: {FULL}.*continues"):
        cache.write(1, latents, view)
    assert cache.missing() == [1] and create(tmp_path / "l").missing() == [1]
    cache.write(1, latents, view)
    whole = LatentCache.open(tmp_path / "l").clips_at(np.arange(4))
    np.testing.assert_array_equal(whole["animation_time"], np.tile(frames, (4, 1)))
    assert (whole["latents"] == 1).all()


def test_rendered_scenes_and_their_data_set(tmp_path, monkeypatch):
    settings = grid.GridSettings(cameras=2, times=3, size=32)
    cameras = {f"camera_{c:03d}": np.eye(4).tolist() for c in range(2)}
    lenses = dict.fromkeys(cameras, [1, 1, 0.5, 0.5])
    data = {"animation_time": [0, 0.5, 1], "cameras": {"extrinsic": cameras, "intrinsic": lenses}}
    moments = [{"videos": NOISE[:, t], "ids": NOISE[:, t, ..., 0]} for t in range(3)]

    @contextlib.contextmanager
    def opened(*_):
        yield data, iter([grid.Strip("", range(2), iter(moments))])

    monkeypatch.setattr(grid, "open_scene", opened)
    with full(), pytest.raises(InputError, match=f"scene_000003 is not written: .*{FULL}"):
        grid.write_grid(tmp_path / "scenes", 3, settings)
    assert not names(tmp_path)
    grid.write_grid(tmp_path / "scenes", 3, settings)
    splits = {"train": [tmp_path / "scenes" / "scene_000003"]}
    with full(), pytest.raises(InputError, match=rf"--out .*cannot be written to \({FULL}\)"):
        build(CamXTime, tmp_path / "built", splits)
    assert all(name.startswith(".cam_x_time.partial/") for name in names(tmp_path / "built"))
    build(CamXTime, tmp_path / "built", splits)


def test_an_evaluation_continues(tmp_path):
    report = Report(tmp_path / "out", {})
    values = {"psnr": 20.0, "psnr_frames": 20.0, "ssim": 0.5}
    rows = [Row("first", group, "reverse", name, values) for group in GROUPS for name in BASELINES]
    report.add_scene(rows)
    before = names(tmp_path)
    with full(), pytest.raises(InputError, match=f"--out .*out cannot be written: {FULL}.* same command"):
        report.add_scene([row._replace(scene="second") for row in 9 * rows])
    assert Report(tmp_path / "out", {}).scenes == ["first"]
    with full(), pytest.raises(InputError, match=f"--out .*out cannot be written: {FULL}.* same command"):
        report.finish([], BASELINES, [], {})
    assert names(tmp_path) == before
    report.finish([], BASELINES, [], {})
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["scenes"] == 1


def test_weights_stay_as_they_were(tmp_path):
    config = dataclasses.asdict(VAE_CONFIG)
    native.save_weights(tmp_path, "vae", {"x": np.zeros(4, np.float32)}, config)
    before = names(tmp_path)
    with full(), pytest.raises(OSError, match=FULL) as raised:
        native.save_weights(tmp_path, "vae", {"x": np.ones(4000, np.float32)}, config)
    assert raised.value.errno == errno.EFBIG and names(tmp_path) == before
    assert not native.read_weights(tmp_path, "vae")["x"].any()


def test_an_export_leaves_nothing(tmp_path):
    with full(), pytest.raises(InputError, match=f"--out .*e cannot be written: {FULL}"):
        with new_folder(tmp_path / "e", 0) as folder:
            write_safetensors(folder, "model", [("x", np.ones(4000, np.float32))])
    assert not list(tmp_path.iterdir())


def test_the_cache_of_prompts_is_not_needed(tmp_path, capsys):
    with full():
        text._write_cached(tmp_path / "a.npz", np.ones(4000))
    assert not names(tmp_path) and "is not kept for the next run" in capsys.readouterr().err


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Settings of JAX's cache, put back at the end, with the user's cache folder in `tmp_path`."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = [getattr(jax.config, name) for name in names]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    yield lambda: [getattr(jax.config, name) for name in names]
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def test_the_cache_of_compiled_functions_is_not_needed(compiled, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "stp_jax"
    folder.mkdir()
    whole, cut = folder / "jit_a-1-cache", folder / "jit_b-2-cache"
    whole.write_bytes(b"a program")
    cut.write_bytes(b"")
    hardware.use_compilation_cache()
    assert names(folder) == [whole.name] and compiled() == [str(folder), 0.2]
    assert not capsys.readouterr().err
    monkeypatch.setattr(hardware, "CACHE_ROOM", 1 << 60)
    hardware.use_compilation_cache()  # what is there is read, nothing is added
    assert "are not kept" in capsys.readouterr().err and compiled() == [str(folder), hardware._NEVER]


def test_a_chosen_cache_that_cannot_be_written_is_a_remark(compiled, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    for given, kept in (("/proc", "/proc"), (str(tmp_path / "file"), None), ("/proc/nowhere", None)):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
        hardware.use_compilation_cache()
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"Compiled functions are not kept: {given}: " in said
        assert compiled() == [kept, hardware._NEVER]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "new"))
    hardware.use_compilation_cache()
    assert not capsys.readouterr().err and compiled() == [str(tmp_path / "new"), 0.2]
    assert (tmp_path / "file").read_text() == "mine"
