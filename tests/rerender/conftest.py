"""What tests of sample.py and of its requests share."""

import json
import shlex

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import sample
from stp_jax import media
from stp_jax.controls import cameras
from tests.rerender.requests import video
from tests.tiny_model import FRAMES, write_tiny_model


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        "wide": video(folder / "wide.mp4", 20),
        "120": video(folder / "120.mp4", 120, 16, 16),
        "81": video(folder / "81.mp4", 81, 16, 16),
        "150": video(folder / "150.mp4", 150, 16, 16),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights, a good clip, and all kinds of files that are not good."""
    folder = tmp_path_factory.mktemp("files")
    write_tiny_model(folder / "weights")
    y, x = np.mgrid[:36, :64]
    frames = np.stack([np.stack([4 * x, 7 * y, (x + 8 * i) % 256], -1) for i in range(20)]).astype(np.uint8)
    media.write_video(folder / "clip.mp4", frames, 10)
    media.write_video(folder / "one_frame.mp4", frames[:1], 10)
    whole = (folder / "clip.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video\n" * 100)

    def poses(name, change=lambda c2w: None, count=FRAMES):
        c2w = np.array(cameras.preset("orbit_left", count).c2w, np.float64)
        change(c2w)
        (folder / name).write_text(json.dumps({"c2w": c2w.tolist()}))

    def put(index, value):
        return lambda c2w: c2w.__setitem__(index, value)

    poses("path.json")
    poses("few.json", count=1)
    for i, key in enumerate(({"time": 9, "fov": 50}, {"time": 0, "fv": 50})):
        (folder / f"keys{i}.json").write_text(json.dumps({"version": 1, "keyframes": [key]}))
    poses("nan.json", put((3, 0, 3), np.nan))
    poses("left_handed.json", lambda c2w: c2w[2, :3].__setitem__((slice(None), 0), -c2w[2, :3, 0]))
    poses("sheared.json", put((1, 0, 1), 0.4))
    (folder / "shapes.json").write_text(json.dumps({"c2w": np.zeros((FRAMES, 3, 3)).tolist()}))
    (folder / "broken.json").write_text('{"c2w": [[')
    (folder / "times.txt").write_text("0 1 2 9 4")
    (folder / "a_file").write_text("in the way")
    module = "diffusion_model.blocks.1.self_attn.q"
    down, up = np.ones((2, 48), np.float32), np.ones((48, 2), np.float32)
    pair = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    save_file(pair | {f"{module}_img.diff_b": up}, folder / "style_4step.safetensors")
    save_file(
        {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": down.T[:9]}, folder / "wide.safetensors"
    )
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("keep me")
    return folder


@pytest.fixture
def run(files, tmp_path, monkeypatch, capsys):
    """Calls sample.py in an empty folder: `run(flags)` -> exit status, stdout, stderr. `{f}` is `files`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(files / "cache"))  # shared: compiles once
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs

    def call(flags: str):
        try:
            sample.main([word.format(f=files) for word in shlex.split(flags)])
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    yield call
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
