"""Readers of what training and evaluation find on disk: configs, data sets, latent caches, scenes, notes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fuzz import mutators
from tests.fuzz.inputs import Reader, Seed

FRAMES, SIZE = 5, 16


def _files(folder: Path) -> dict[str, bytes]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _mutators(name: str) -> tuple:
    return {".json": mutators.JSON, ".jsonl": mutators.JSON, ".npy": mutators.NPY, ".py": mutators.TEXT}.get(
        Path(name).suffix, mutators.BYTES
    )


def _one_of_each(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> list[Seed]:
    """A seed for each file of a folder that is to be mutated."""
    files = _files(folder)
    return [Seed(files, name, _mutators(name)) for name in files if wanted(name)]


def _scenes(work: Path) -> Path:
    """One tiny scene folder as the renderer writes them."""
    from input_pipeline.datasets.cam_x_time import CamXTime  # noqa: F401  registers the builder
    from input_pipeline.render.grid import FPS
    from stp_jax import media
    from stp_jax.controls.camera_files import GRID_CONVENTION

    folder = work / "scenes" / "scene_000000"
    (folder / "videos").mkdir(parents=True)
    names = ["camera_000", "camera_001"]
    for place, name in enumerate(names):
        video = np.full((2 * FRAMES - 1, SIZE, SIZE, 3), 100 * place, np.uint8)
        media.write_video(folder / "videos" / f"{name}.mp4", video, FPS, crf=30)
    _write_json(
        folder / "camera_data.json",
        {
            "convention": GRID_CONVENTION,
            "fps": FPS,
            "animation_time": [t / 2 for t in range(2 * FRAMES - 1)],
            "cameras": {
                "extrinsic": {name: np.eye(4).tolist() for name in names},
                "intrinsic": {name: [1.0, 1.0, 0.5, 0.5] for name in names},
            },
        },
    )
    return folder


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _scene_seeds(work: Path) -> list[Seed]:
    return _one_of_each(_scenes(work), lambda name: name.endswith(".json"))


def _read_scene(folder: Path) -> None:
    from input_pipeline.datasets.cam_x_time import CamXTime

    record = CamXTime.read_scene(None, folder)  # type: ignore[arg-type]  # it uses nothing of its builder
    assert np.isfinite(record["c2w"]).all() and np.isfinite(record["fps"])


def _data_set_seeds(work: Path) -> list[Seed]:
    from input_pipeline.datasets import records
    from input_pipeline.datasets.cam_x_time import CamXTime

    built = records.build(CamXTime, work / "out", {"train": [_scenes(work)]})
    files = _files(built)
    (chunks,) = (name for name in files if "array_record" in name)
    chosen = [name for name in files if name.endswith(".json")]
    return [
        *(Seed(files, name, mutators.JSON) for name in chosen),
        Seed(files, chunks, mutators.BYTES),
        Seed(files, chunks, (_in_the_chunks,)),
    ]


def _begun_seeds(work: Path) -> list[Seed]:
    """A build that was stopped when all files were there."""
    from input_pipeline.datasets import records
    from input_pipeline.datasets.building import Build
    from input_pipeline.datasets.cam_x_time import CamXTime

    scene = _scenes(work)
    build = Build(CamXTime, work / "out", {"train": [scene]}, records.Options(workers=1), {})
    build._finish = lambda: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    try:
        build.run()
    except KeyboardInterrupt:
        pass
    return _one_of_each(work, lambda name: ".partial/" in name and not name.endswith("lock"))


def _go_on(folder: Path) -> None:
    from input_pipeline.datasets import records
    from input_pipeline.datasets.cam_x_time import CamXTime
    from input_pipeline.datasets.reading import open_records

    scenes = [folder / "scenes" / "scene_000000"]
    built = records.build(CamXTime, folder / "out", {"train": scenes}, records.Options(workers=1))
    assert len(open_records(built, "cam_x_time", "train")) == 1


def _video_seeds(work: Path) -> list[Seed]:
    return _one_of_each(_scenes(work) / "videos", lambda name: name == "camera_001.mp4")


def _probe_video(folder: Path) -> None:
    from input_pipeline.datasets.probing import probe

    found = probe((folder / "camera_001.mp4").read_bytes(), "video", decode=True)
    assert found.frames > 0 and min(found.size) > 0


def _in_the_chunks(data: bytes, draw) -> bytes:
    """Changes bytes of the records and the index, which are a small part of a padded ArrayRecord file."""
    used = [place for place, byte in enumerate(data) if byte]
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8) if used else 0):
        changed[draw.choice(used)] = draw.randrange(256)
    return bytes(changed)


def _read_data_set(folder: Path) -> None:
    from input_pipeline.datasets.reading import open_records
    from input_pipeline.shots import decode_scene

    records = open_records(folder, "cam_x_time", "train")
    for place in range(len(records)):
        decode_scene(records[place])


def _cache_seeds(work: Path, written: int = 2) -> list[Seed]:
    from input_pipeline.latents import LatentCache
    from stp_jax.controls.view import View

    cache = LatentCache.create(
        work / "train", scenes=2, clips=4, frames=FRAMES, latent_shape=(2, 2, 2, 4), clips_per_path=2,
        meta={"vae": {"temporal_downsample": [True, False, True]}, "seed": 3, "flip": False},
    )  # fmt: skip
    c2w = np.tile(np.eye(4), (4, FRAMES, 1, 1))
    view = View(c2w, np.full((4, FRAMES, 4), 0.5), np.tile(np.arange(FRAMES), (4, 1)))
    for scene in range(written):
        cache.write(scene, np.zeros((4, 2, 2, 2, 4)), view, ["a dog runs", "狗"])
    return _one_of_each(work)


def _read_cache(folder: Path) -> None:
    from input_pipeline.config import default_config
    from input_pipeline.latents import LatentCache
    from input_pipeline.pipeline import count_examples, make_dataset

    config = default_config()
    config.update(kind="latents", path=str(folder), frames=FRAMES)
    count = count_examples(config, "train")
    assert len(LatentCache.open(folder / "train").captions) == 2
    batches = make_dataset(config, split="train", seed=0, batch_size=2, read_threads=1)
    batch = next(iter(batches))
    assert count == 8 and all(np.isfinite(values).all() for values in batch.values())


def _unfinished_cache_seeds(work: Path) -> list[Seed]:
    return _cache_seeds(work, written=1)


def _read_cache_to_continue(folder: Path) -> None:
    from input_pipeline.latents import LatentCache

    sizes = {path: path.stat().st_size for path in (folder / "train").glob("*.npy")}
    try:
        LatentCache.create(
            folder / "train", scenes=2, clips=4, frames=FRAMES, latent_shape=(2, 2, 2, 4), clips_per_path=2,
            meta={"vae": {"temporal_downsample": [True, False, True]}, "seed": 3, "flip": False},
        )  # fmt: skip
    finally:
        assert sizes == {path: path.stat().st_size for path in sizes}, "a file became longer"


@functools.cache
def _config():
    from stp_jax.command_line import read_config

    return read_config("configs/demo.py")


def _run_seeds(work: Path) -> list[Seed]:
    from stp_jax.training.workdir import write_config

    write_config(work, _config())
    lines = b"".join(b'{"step": %d, "loss": 0.5}\n' % step for step in range(1, 9))
    (work / "metrics.jsonl").write_bytes(lines)
    return _one_of_each(work)


def _read_run(folder: Path) -> None:
    from stp_jax.files import read_json_lines
    from stp_jax.training.metrics import cut_lines
    from stp_jax.training.workdir import check_workdir

    check_workdir(folder, _config())
    cut_lines(folder / "metrics.jsonl", 4)
    steps = [line.get("step") for line in read_json_lines(folder / "metrics.jsonl")]
    assert not [step for step in steps if type(step) is int and step > 4]


CONFIG = b'''from stp_jax.training.config import DiTTraining, make_config


def get_config(size="small"):
    """A try-out."""
    layers = {"small": 2, "large": 4}[size]
    return make_config(DiTTraining, model=dict(dim=64, layers=layers), train=dict(steps=100, batch_size=4))
'''


def _config_seeds(work: Path) -> list[Seed]:
    # Only words and numbers of it are changed: a config is a program, and may do what it likes.
    files = {"config.py": CONFIG}
    return [Seed(files, "config.py", (mutators.cut, mutators.flip_bits, mutators.numbers_in_text))]


def _read_config(folder: Path) -> None:
    from stp_jax.command_line import read_config

    read_config(str(folder / "config.py"), ["--config.train.steps=3"])


def _evaluation_seeds(work: Path) -> list[Seed]:
    _write_json(work / "settings.json", {"scenes": 2, "seed": 0})
    figures = {"psnr": 20.5, "psnr_frames": [1.0, 2.0]}
    rows = [[f"scene {place}", "both", "reverse", "demo", figures] for place in (0, 1)]
    (work / "scenes.jsonl").write_text("".join(json.dumps([row]) + "\n" for row in rows))
    return _one_of_each(work)


def _read_evaluation(folder: Path) -> None:
    from stp_jax.evaluate.report import Report
    from stp_jax.evaluate.rows import by_scene, number_names

    report = Report(folder, {"scenes": 2, "seed": 0})
    assert len(report.scenes) <= 2
    for name in number_names(report.rows):
        by_scene(report.rows, "demo", name, report.scenes)


def _embedding_seeds(work: Path) -> list[Seed]:
    np.savez(work / "prompts.npz", embeddings=np.ones((2, 512, 4), np.float32), embedding=np.ones((3, 4)))
    return [Seed(_files(work), "prompts.npz", mutators.NPZ)]


def _read_embeddings(folder: Path) -> None:
    from stp_jax import text

    text._read_cached(folder / "prompts.npz")
    assert np.isfinite(text.read_embeddings(folder / "prompts.npz", 4)).all()


def _caption_seeds(work: Path) -> list[Seed]:
    from input_pipeline.caption_embeddings import Part, mark_covered

    part = Part(work, (0, 1), {"dim": 4, "tokens": 8, "encoder": {"title": "a test"}})
    for number, caption in enumerate(("", "a dog runs", "狗")):
        part.add(caption, np.full((number + 1, 4), number))
    mark_covered(work, "a data set", (0, 1), "name", 1)
    return _one_of_each(work)


def _read_captions(folder: Path) -> None:
    from input_pipeline.caption_embeddings import CaptionEmbeddings, Part

    embeddings = CaptionEmbeddings.open(folder)
    embeddings.covers("a data set")
    found = embeddings.batch(np.array([*range(len(embeddings)), -1]))
    assert np.isfinite(found["text"]).all() and not found["has_caption"][-1]
    Part(folder, (0, 1), embeddings.meta).add("a cat", np.ones((2, embeddings.dim)))
    again = CaptionEmbeddings.open(folder)
    assert (again.embedding(again.row("a cat")) == 1).all()


READERS = [
    Reader("camera_data.json of a scene", _scene_seeds, _read_scene, share=0.5),
    Reader("data set", _data_set_seeds, _read_data_set),
    Reader("data set that was begun", _begun_seeds, _go_on, share=0.2, changes_files=True),
    Reader("video of a scene", _video_seeds, _probe_video, share=0.5),
    Reader("latent cache", _cache_seeds, _read_cache, share=0.5),
    Reader(
        "latent cache to continue",
        _unfinished_cache_seeds,
        _read_cache_to_continue,
        share=0.5,
        changes_files=True,
    ),
    Reader("work directory of a run", _run_seeds, _read_run, changes_files=True),
    Reader("embeddings of prompts", _embedding_seeds, _read_embeddings, share=0.3),
    Reader("embeddings of captions", _caption_seeds, _read_captions, share=0.3, changes_files=True),
    Reader("config file", _config_seeds, _read_config, share=0.3),
    Reader("folder of an evaluation", _evaluation_seeds, _read_evaluation, changes_files=True),
]
