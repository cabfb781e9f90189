"""A small built data set of held-out scenes."""

import json

import av
import numpy as np
import pytest
from ml_collections import ConfigDict

from input_pipeline.datasets import records
from input_pipeline.datasets.cam_x_time import CamXTime


def write_data_set(folder, scenes=2):
    """A built data set of scenes of random pictures, as the renderer would leave it."""
    rng = np.random.default_rng(0)
    for number in range(scenes):
        path = folder / "scenes" / f"scene_{1_000_000 + number}"
        (path / "videos").mkdir(parents=True)
        cameras: dict[str, dict] = {"extrinsic": {}, "intrinsic": {}}
        for camera in range(7):
            name = f"camera_{camera:03d}"
            with av.open(str(path / "videos" / f"{name}.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
                stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv444p"
                for _ in range(9):
                    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                container.mux(stream.encode())
            w2c = np.eye(4)
            w2c[0, 3] = -camera
            cameras["extrinsic"][name] = w2c.tolist()
            cameras["intrinsic"][name] = [1, 1, 0.5, 0.5]
        data = {"fps": 10, "animation_time": [t / 2 for t in range(9)], "cameras": cameras}
        (path / "camera_data.json").write_text(json.dumps(data))
    folders = sorted((folder / "scenes").iterdir())
    records.build(CamXTime, folder / "built", {"test": folders})
    return ConfigDict({"path": str(folder / "built"), "kind": "cam_x_time", "frames": 5})


@pytest.fixture
def without_lpips(monkeypatch):
    """LPIPS, where it is installed, takes most of the time of a small evaluation."""
    monkeypatch.setattr("stp_jax.evaluate.lpips.load", lambda: None)


@pytest.fixture
def without_metrics_plot(monkeypatch):
    """That plot takes most of the rest; it is drawn in the tests of the commands and of whole evaluations."""
    monkeypatch.setattr("stp_jax.evaluate.report.plot_metrics", lambda path, summary: None)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("data"))
