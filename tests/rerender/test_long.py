"""Long videos: equal to windows made by hand, whole after interruptions, and refused in one line."""

import contextlib
import dataclasses
import errno
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from stp_jax import media
from stp_jax.controls import cameras
from stp_jax.controls.view import View
from stp_jax.devices.sharding import make_mesh
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.parameters import load_into
from stp_jax.models.vae import VAE
from stp_jax.rerender import long, runs, windows
from stp_jax.rerender.long import LongVideo, Pieces
from stp_jax.rerender.rerenderer import Rerenderer
from stp_jax.rerender.sampler import mesh_for_one_video
from stp_jax.weights import native
from tests.tiny_model import DIT_CONFIG, NOTES, SHIFT, SIZE, STEPS, VAE_CONFIG, random_parameters

F, K, LENGTH, SOURCE = 9, 2, 22, 30
CONFIG = dataclasses.replace(DIT_CONFIG, memory=K)


def make_dit() -> SpaceTimeDiT:
    return SpaceTimeDiT(CONFIG, rngs=nnx.Rngs(0))


def make_vae() -> VAE:
    return VAE(VAE_CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    models = (
        ("weights", CONFIG, make_dit, 1),
        ("other", CONFIG, make_dit, 2),
        ("plain", DIT_CONFIG, plain_dit, 1),
    )
    for name, config, make, seed in models:
        parameters = random_parameters(make, seed, 0.15)
        native.save_weights(folder / name, "vae", random_parameters(make_vae, 0, 0.15), vars(VAE_CONFIG))
        notes = NOTES | {"frames": F}
        native.save_weights(folder / name, "dit", parameters, dataclasses.asdict(config), notes=notes)
    media.write_video(folder / "clip.mp4", footage(), 8)
    return folder


def plain_dit() -> SpaceTimeDiT:
    return SpaceTimeDiT(DIT_CONFIG, rngs=nnx.Rngs(0))


def footage() -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 255, (SOURCE, 8, 8, 3), np.uint8)
    return coarse.repeat(SIZE // 8, 1).repeat(SIZE // 8, 2)


def views(length=LENGTH):
    moves = cameras.preset("orbit_left:20", SOURCE), cameras.preset("orbit_right:30:5", length)
    clock = np.linspace(3, 25, length).astype(np.float32)
    return View(*moves[0], np.arange(SOURCE, dtype=np.float32)), View(*moves[1], clock)


def made(folder, model, *, overlap=1, length=LENGTH, until=None, **options):
    source, target = views(length)
    plan = windows.plan(target.animation_time, F, overlap, SOURCE)
    pieces = Pieces(folder)
    video = LongVideo(model, plan, footage().__getitem__, source, target, pieces, seed=7, **options)
    for window in video.make():
        if window + 1 == until:
            break
    return plan, pieces


def relative(view, first, zero):
    c2w = np.linalg.inv(first.astype(np.float64)) @ view.c2w
    return View(c2w.astype(np.float32), view.intrinsics, view.animation_time - zero).as_batch()


def test_a_long_video_is_its_windows_made_by_hand(files, tmp_path):
    """Cameras, times, noise, memory and the frame in common, without the code under test."""
    plan, pieces = made(tmp_path, Rerenderer(files / "weights"))
    assert plan.starts.tolist() == [0, 8, 16]
    vae, dit = make_vae(), make_dit()
    load_into(vae, native.read_weights(files / "weights", "vae"), "vae")
    load_into(dit, native.read_weights(files / "weights", "dit"), "dit")
    encode, decode, velocity_of = jax.jit(vae.encode), jax.jit(vae.decode), jax.jit(dit)
    condition = jax.jit(functools.partial(dit.condition, latent_size=(3, SIZE // 4, SIZE // 4)))
    source, target = views()
    padded = jax.tree.map(lambda array: np.concatenate([array, array[-1:].repeat(3, 0)]), target)
    fresh = [
        np.asarray(
            jax.random.normal(
                jax.random.fold_in(jax.random.key((7 + 0x9E3779B1 * window) % 2**32), 0),
                (3, SIZE // 8 * 2, SIZE // 8 * 2, 4),
            )
        )
        for window in range(3)
    ]
    u = 1 - np.arange(STEPS + 1) / STEPS
    sigmas = (SHIFT * u / (1 + (SHIFT - 1) * u)).astype(np.float32)
    for window, start in enumerate(plan.starts):
        first = plan.sources[window]
        inner = slice(first, first + F)
        at_start = source.c2w[first]
        own = (
            relative(source.at(inner), at_start, first),
            relative(padded.at(slice(start, start + F)), at_start, first),
        )
        clip = encode((footage()[inner][None] / 127.5 - 1).astype(np.float32))
        noise, memory, known, earlier = fresh[window], None, None, ()
        noise = noise[:, : clip.shape[2], : clip.shape[3]]
        if window:
            noise = np.concatenate([fresh[window - 1][-1:, : clip.shape[2], : clip.shape[3]], noise[1:]])
            # Both latent frames of the window before; after two windows the most recent and the best other.
            chosen = [1, 2] if window == 1 else memory_by_hand(target, padded)
            memory = np.stack([pieces.read((g - 1) // 2, "latents")[1 + (g - 1) % 2] for g in chosen])[None]
            entries = np.concatenate([np.arange(4 * g - 3, 4 * g + 1) for g in chosen])
            earlier = (relative(target.at(entries), at_start, first),)
            known = np.asarray(encode((pieces.read(window - 1, "tail")[None] / 127.5 - 1).astype(np.float32)))
        conditioning = condition(own[1], own[0], *earlier)
        x = noise[None].copy()
        for now, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            if known is not None:
                x[:, :1] = (1 - now) * known + now * noise[None, :1]
            velocity = velocity_of(x, clip, np.full(1, 1000 * now, np.float32), conditioning, memory)
            x = x + (following - now) * np.asarray(velocity)
        if known is not None:
            x[:, :1] = known
        np.testing.assert_allclose(pieces.read(window, "latents"), x[0], atol=4e-3)
        video = np.round((np.asarray(decode(x))[0] + 1) * 127.5).astype(np.uint8)
        both = np.concatenate([pieces.read(window, "frames"), pieces.read(window, "tail")])
        assert np.abs(both.astype(int) - video[: LENGTH - start]).max() <= 3
    assert [len(pieces.read(window, "frames")) for window in range(3)] == [8, 8, 6]


def memory_by_hand(target, padded):
    from stp_jax.rerender.memory_choice import worth

    worths = worth(target.at(np.array([4, 8, 12, 16])), padded.at(np.array([16, 20, 21])), 4.0)
    gain = np.maximum(worths[:3] - worths[3], 0).sum(1) + 1e-3 * worths[:3].sum(1)
    return sorted([1 + int(np.argmax(gain)), 4])


def test_other_choices_of_memory_give_other_videos(files, tmp_path):
    model = Rerenderer(files / "weights")
    kinds = {}
    for options in ({}, {"choice": "none"}, {"in_place": False}, {"memory_sigma": 0.2}):
        folder = tmp_path / "_".join(["made", *options])
        folder.mkdir()
        kinds[folder.name] = made(folder, model, **options)[1]
    first = [kinds[name].read(0, "frames")[:8] for name in kinds]
    assert all(np.array_equal(first[0], other) for other in first[1:])
    second = [kinds[name].read(1, "latents") for name in kinds]
    assert all(np.abs(second[0] - other).max() > 0.02 for other in second[1:])


@pytest.mark.parametrize(
    ("weights", "overlap", "mesh"),
    [
        ("weights", 1, lambda: mesh_for_one_video(jax.devices(), 48, guided=False, least_tokens=0)),
        ("plain", 5, lambda: make_mesh(data=2, sequence=4)),  # two rows, of which one repeats the other
    ],
    ids=["memory", "frames in common alone"],
)
def test_several_devices_make_the_same_long_video(files, tmp_path, weights, overlap, mesh):
    (tmp_path / "one").mkdir(), (tmp_path / "eight").mkdir()
    short = dict(overlap=overlap, length=9 + 2 * (9 - overlap))
    plan, one = made(tmp_path / "one", Rerenderer(files / weights), **short)
    spread = Rerenderer(files / weights, mesh=mesh())
    assert spread.device.startswith("8 x") and len(plan.starts) == 3
    _, eight = made(tmp_path / "eight", spread, **short)
    for window in range(3):
        for name, most in (("latents", 4e-3), ("frames", 1), ("tail", 1)):
            apart = np.subtract(one.read(window, name), eight.read(window, name), dtype=np.float32)
            assert np.abs(apart).max(initial=0) <= most, (window, name)  # the last tail is empty


def test_no_velocity_is_reused_in_the_next_window(files, tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "each").mkdir()
    draft = functools.partial(Rerenderer, files / "weights", speed="draft", steps=5)
    _, whole = made(tmp_path / "one", draft())
    for window in range(3):  # by a model that has made nothing before
        _, each = made(tmp_path / "each", draft(), until=window + 1)
    for window in range(3):
        for name in ("frames", "latents"):
            np.testing.assert_array_equal(whole.read(window, name), each.read(window, name))
        assert 1 < whole.read(window, "forwards") < 5


VIDEO = "--video {f}/clip.mp4 --camera orbit_left --animation_time slow_motion"
GOOD = f"--weights {{f}}/weights {VIDEO} --frames {LENGTH}"


@contextlib.contextmanager
def stopped_at(window, error, monkeypatch):
    """Writing the piece of a window fails."""
    write = Pieces.write

    def stop(self, number, piece):
        if number == window:
            raise error
        write(self, number, piece)

    with monkeypatch.context() as patch:
        patch.setattr(long.Pieces, "write", stop)
        yield


def test_goes_on_where_it_was_stopped(run, files, monkeypatch):
    assert run(f"{GOOD} --also png --out whole")[0] == 0
    with stopped_at(2, KeyboardInterrupt(), monkeypatch):
        assert run(f"{GOOD} --also png --out parts")[0] == 130
    left = {path.name for path in Path("parts").iterdir()}
    assert left == {"windows", "preview.mp4"}
    preview, fps = media.read_video("parts/preview.mp4")
    assert len(preview) == 16 and fps == pytest.approx(8)
    before = {path: path.stat().st_mtime_ns for path in Path("parts/windows").glob("*.npz")}
    assert len(before) == 2

    status, _, err = run(f"{GOOD} --also png --out parts --seed 1")
    assert status == 2 and err.count("\n") == 1 and "the beginning of a video with another seed" in err
    status, _, err = run(f"{GOOD} --also png --out parts --weights {{f}}/other")
    assert status == 2 and "another file of weights, weights" in err
    assert before == {path: path.stat().st_mtime_ns for path in Path("parts/windows").glob("*.npz")}

    with monkeypatch.context() as patch:  # all windows are there, and no result
        patch.setattr(runs, "write", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(f"{GOOD} --also png --out parts")[0] == 130
    assert Path("parts/windows/00002.npz").is_file()
    Path("parts/windows/00001.mp4").unlink()  # killed between both files of a window
    status, out, _ = run(f"{GOOD} --also png --out parts")
    assert status == 0 and "Going on after window 3 of 3" in out
    assert f"Forwards of the DiT: {3 * STEPS}\n" in out
    names = sorted(path.relative_to("whole") for path in Path("whole").rglob("*") if path.is_file())
    assert names == sorted(path.relative_to("parts") for path in Path("parts").rglob("*") if path.is_file())
    for name in names:
        same = Path("whole", name).read_bytes() == Path("parts", name).read_bytes()
        assert same or name.name == "cameras_and_time.png", name
    assert len(media.read_video("parts/result.mp4")[0]) == LENGTH
    assert len(list(Path("parts/result_png").iterdir())) == LENGTH


def test_a_full_disk_leaves_what_was_made(run, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "parts/windows/00001.npz")
    with stopped_at(1, full, monkeypatch):
        status, _, err = run(f"{GOOD} --out parts")
    assert status == 2 and err.strip().splitlines()[-1].startswith("error: parts/windows/00001.npz")
    assert "No space left on device. The 1 of 3 windows that are finished stay in parts" in err
    assert Path("parts/windows/00000.npz").is_file() and Path("parts/preview.mp4").is_file()


def test_without_out_the_same_command_goes_on_and_another_begins(run, monkeypatch):
    with stopped_at(1, KeyboardInterrupt(), monkeypatch):
        assert run(GOOD)[0] == 130
    assert run(f"{GOOD} --seed 1")[0] == 0
    assert run(GOOD)[0] == 0
    folders = {path.name: (path / "windows").exists() for path in Path("outputs").iterdir()}
    assert folders == {"clip_orbit_left_slow_motion": False, "clip_orbit_left_slow_motion_2": False}


def test_jobs_go_on_within_a_video(run, monkeypatch):
    lines = [{"video": "clip.mp4", "camera": camera} for camera in ("static", "dolly_in")]
    run_flags = (
        f"--weights {{f}}/weights --frames {LENGTH} --animation_time slow_motion --jobs jobs.jsonl --out many"
    )
    lines = [line | {"video": str(next(iter([Path.cwd() / "clip.mp4"])))} for line in lines]
    media.write_video("clip.mp4", footage(), 8)
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with stopped_at(2, KeyboardInterrupt(), monkeypatch):
        assert run(run_flags)[0] == 130
    status, out, err = run(run_flags)
    assert status == 0 and "Going on after window 2 of 3" in out, err
    assert len(list(Path("many").glob("*/result.mp4"))) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--frames 40 --animation_time forward", "time 30 is outside the source, 0 to 29"),
        ("--frames 70 --camera source --animation_time 0:0,69:70", "source frames 0 to 29"),
        ("--duration 0.5 --frames 22 --animation_time freeze_start", "the source has 5 frames there"),
        ("--duration 9 --frames 22", "the range 0 to 9 s must lie within"),
        ("--overlap 9", "--overlap 9: windows of 9 frames overlap by 4n + 1, from 1 to 5"),
        ("--overlap 3", "--overlap 3: windows of 9 frames overlap by 4n + 1"),
        ("--start 30", "the start, 30 s, must lie within the video"),
        (
            "--camera {f}/path.npy --source_cameras {f}/path.npy --frames 36",
            "its poses are those of the source's",
        ),
    ],
)
def test_mistakes_are_one_line_before_any_work(run, files, flags, message):
    np.save(files / "path.npy", np.tile(np.eye(4), (SOURCE, 1, 1)))
    status, _, err = run(f"{GOOD} {flags} --out mine")
    assert status == 2 and message in err and err.count("\n") == 1 and not Path("mine").exists()


def test_keyframes_with_a_clock_may_make_more_frames_than_the_source_has(run, files):
    keys = [{"time": "0%", "animation_time": "0%"}, {"time": "100%", "animation_time": "100%"}]
    Path("keys.json").write_text(json.dumps({"version": 1, "keyframes": keys}))
    flags = "--weights {f}/weights --video {f}/clip.mp4 --frames 40 --dry_run"
    status, out, err = run(f"{flags} --keyframes keys.json")
    assert status == 0 and "Long video: 40 frames in 5 windows" in out, err
    Path("keys.json").write_text(json.dumps({"version": 1, "keyframes": [{"time": 0, "fov": 40}]}))
    status, _, err = run(f"{flags} --keyframes keys.json")  # which runs forward
    assert status == 2 and "'forward': frame 30: time 30 is outside the source" in err


def test_a_model_without_a_memory_says_that_it_is_an_approximation(run):
    status, out, err = run(f"--weights {{f}}/plain {VIDEO} --frames {LENGTH} --out mine")
    assert status == 0, err
    assert "in 5 windows of 9, which overlap by 5" in out and "(an approximation" in out
    assert len(media.read_video("mine/result.mp4")[0]) == LENGTH
