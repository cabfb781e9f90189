"""A builder whose scenes are records in pickle files, so that tests choose everything about them."""

import pickle
import time

import synthetic

from input_pipeline.datasets import records

TIMES = 9


class Stored(records.SceneBuilder):
    name = "stored"

    def __init__(self, *, unit=1.0, **kwargs):
        self._unit = unit
        super().__init__(**kwargs)

    def read_scene(self, folder):
        while (folder / "wait").exists():
            time.sleep(0.02)
        record = pickle.loads((folder / "record.pickle").read_bytes())
        record["c2w"][..., :3, 3] *= self._unit
        return record


def record(video, kind="synchronised", cameras=2, **changes):
    """A record of `cameras` equal videos of TIMES frames."""
    scene = synthetic.scene(cameras=cameras, times=TIMES, step=1.0, kind=kind)
    still = kind == "grid"
    return {
        "kind": kind,
        "fps": 30.0,
        "videos": [video] * cameras,
        "c2w": scene.c2w[:, :1] if still else scene.c2w,
        "intrinsics": scene.intrinsics[:, :1],
        "animation_time": scene.animation_time,
        "captions": [],
        "metric": True,
    } | changes


def write(folder, record):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.pickle").write_bytes(pickle.dumps(record))
    return folder
