"""What `import stp_jax` offers: its docstring's example runs, and JAX is loaded only when it is needed."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import stp_jax
from stp_jax.media import read_video, write_video
from tests.tiny_model import FRAMES, SIZE, write_tiny_model


def test_the_example_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "weights")
    noise = np.random.default_rng(0).integers(0, 256, (12, 40, 60, 3), dtype=np.uint8)
    write_video("clip.mp4", noise, 10)
    # The docstring's only indented block.
    lines = [line for line in stp_jax.__doc__.splitlines() if line.startswith("    ") or not line]
    exec(textwrap.dedent("\n".join(lines)), {})
    video, fps = read_video("result.mp4")
    assert video.shape == (FRAMES, SIZE, SIZE, 3) and fps == pytest.approx((FRAMES - 1) / 1.1, rel=0.01)


def test_names_are_imported_when_they_are_used():
    code = """
import sys, stp_jax
assert not {"jax", "numpy", "av"} & set(sys.modules)
stp_jax.cameras.preset("static", 5), stp_jax.curve("forward", 5), stp_jax.View(), stp_jax.read_video
assert "jax" not in sys.modules
stp_jax.Rerenderer
assert "jax" in sys.modules and set(stp_jax.__all__) <= set(dir(stp_jax))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="'stp_jax' has no attribute 'Rerendrer'"):
        stp_jax.Rerendrer  # noqa: B018
