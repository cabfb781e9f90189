"""What is known of a scene without decoding a picture, of data sets and of latent caches."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from input_pipeline import decoding, shots
from input_pipeline.datasets import reading
from input_pipeline.latents import LatentCache
from input_pipeline.remote import holds, is_remote, local_path, within
from stp_jax.errors import InputError
from stp_jax.files import read_json

LATENTS = "latents"  # in place of a kind of scene


class Known(NamedTuple):
    """A scene of C cameras (of a latent cache: clips) of T frames.

    Attributes:
      kind: one of `shots.KINDS`, or LATENTS.
      metric: whether poses are in metres; None: not known.
      fps: frames in a second; NaN: not known.
      c2w: float64 [C, T, 4, 4]; intrinsics float64 [C, T, 4]; animation_time float64 [C, T].
      sizes: height and width of each camera's video, by its header; none of a latent cache.
      lengths: frames of each video, by its header; 0 where that does not say.
      size: bytes.
    """

    number: int
    name: str
    kind: str
    metric: bool | None
    captions: tuple[str, ...]
    fps: float
    c2w: np.ndarray
    intrinsics: np.ndarray
    animation_time: np.ndarray
    sizes: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    size: int

    @property
    def cameras(self) -> int:
        return self.c2w.shape[0]

    @property
    def frames(self) -> int:
        return self.c2w.shape[1]

    @property
    def unit(self) -> str:
        """Of lengths: metres, or the scene's own unit."""
        return "m" if self.metric else "units"


Source = reading.Records | LatentCache


def open_data(path: str | Path, kind: str | None, split: str) -> tuple[str, Source]:
    """Opens a built data set or a latent cache.

    Args:
      path: the folder given as --out when it was built, or its own; may be in object storage.
      kind: the name of the data set. None: of the only one that is there; remote ones are not searched for.

    Returns:
      A name to print, and the data.

    Raises:
      InputError: there is none, or several are there and `kind` is None; it is damaged; the split is missing.
    """
    if is_remote(path):
        return _open_remote(str(path), kind, split)
    path = local_path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    if kind in (None, LATENTS):
        if found := _latent_cache(path, split):
            return found
        others = sorted(meta.parent.name for meta in path.glob("*/meta.json"))
        if others:
            raise InputError(f"latent cache {path}: no split {split!r}; there is: {', '.join(others)[:500]}")
    kind = kind or _only_kind(path)
    return f"data set {path}, {kind}, split {split}", reading.open_records(path, kind, split)


def _open_remote(url: str, kind: str | None, split: str) -> tuple[str, Source]:
    if kind in (None, LATENTS):
        if found := _latent_cache(url, split):
            return found
        raise InputError(
            f"{url}: no latent cache of the split {split!r} there; of a data set in object storage give the "
            "name, too, with --kind"
        )
    return f"data set {url}, {kind}, split {split}", reading.open_records(url, kind, split)


def _latent_cache(path: str | Path, split: str) -> tuple[str, Source] | None:
    """The cache of a folder, or of the split in it, as `open_data` returns it."""
    for folder in (path, within(path, split)):
        if holds(folder, "meta.json"):
            return f"latent cache {folder}", LatentCache.open(folder)
    return None


def _only_kind(path: Path) -> str:
    """The name of the one data set in a folder."""
    if (path / reading.INFO).is_file():
        return str(read_json(path / reading.INFO, dict).get("name"))
    found = sorted({info.parent.parent.name for info in path.glob(f"*/*/{reading.INFO}")})
    if len(found) > 1:
        raise InputError(f"{path}: holds {', '.join(found)[:500]}: choose one with --kind")
    if not found:
        raise InputError(f"{path}: holds neither a built data set nor a latent cache")
    return found[0]


def count(source: Source) -> int:
    return source.scenes if isinstance(source, LatentCache) else len(source)


def known(source: Source, number: int) -> Known:
    """What is known of scene `number`. Raises `InputError` where it is damaged."""
    if isinstance(source, LatentCache):
        return _of_cache(source, number)
    return of_record(source[number], number)


def of_record(record: Mapping[str, Any], number: int = 0) -> Known:
    """What a record says, of the form in `input_pipeline.datasets.form`.

    Raises:
      InputError: its parts do not fit each other, or a video has no readable header.
    """
    name, kind = (text(record[field]) for field in ("scene", "kind"))
    times = np.asarray(record["animation_time"], np.float64)
    videos = record["videos"]
    where = f"scene {name}"
    if kind not in shots.KINDS:
        raise InputError(f"{where}: of kind {kind[:100]!r}, which is none of {', '.join(shots.KINDS)}")
    if not len(videos) or not len(times):
        raise InputError(f"{where}: the record has no videos or no animation times")
    shots.check_cameras(record["c2w"], record["intrinsics"], kind, len(videos), len(times), where)
    headers = [_header(data, f"{where}, camera {camera}") for camera, data in enumerate(videos)]
    shape = (len(videos), len(times))
    return Known(
        number=number,
        name=name,
        kind=kind,
        metric=bool(record["metric"]),
        captions=tuple(text(caption) for caption in record["captions"]),
        fps=float(record["fps"]) or float("nan"),
        c2w=np.broadcast_to(np.asarray(record["c2w"], np.float64), (*shape, 4, 4)),
        intrinsics=np.broadcast_to(np.asarray(record["intrinsics"], np.float64), (*shape, 4)),
        animation_time=np.broadcast_to(times, shape),
        sizes=tuple(size for size, _ in headers),
        lengths=tuple(length for _, length in headers),
        size=sum(len(data) for data in videos),
    )


def text(value: Any) -> str:
    """A field of a record."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _header(data: bytes, where: str) -> tuple[tuple[int, int], int]:
    """Height and width of a video, and its number of frames or 0, as its header says."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            return (stream.height, stream.width), stream.frames
    except (av.FFmpegError, IndexError) as error:
        reason = getattr(error, "strerror", None) or "no video"
        raise InputError(f"{where}: not a readable video ({reason})") from None


def _of_cache(cache: LatentCache, number: int) -> Known:
    view = cache.views_of(number)
    c2w, lenses = (np.asarray(array, np.float64) for array in (view.c2w, view.intrinsics))
    shots.check_cameras(c2w, lenses, LATENTS, c2w.shape[0], c2w.shape[1], f"{cache.path}: scene {number}")
    return Known(
        number=number,
        name=f"scene {number}",
        kind=LATENTS,
        metric=None,
        captions=(),
        fps=float("nan"),
        c2w=c2w,
        intrinsics=lenses,
        animation_time=np.asarray(view.animation_time, np.float64),
        sizes=(),
        lengths=(),
        size=2 * cache.clips * int(np.prod(cache.latent_shape)),
    )


# Pictures ---------------------------------------------------------------------------------------------------


def pictures(
    record: Mapping[str, Any], wanted: Mapping[int, list[int]]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Some frames of some cameras: camera, grid time, uint8 [H, W, 3]; one video is decoded at a time.

    Args:
      wanted: grid times by camera.

    Raises:
      InputError: a video cannot be decoded, or is too short.
    """
    name = text(record["scene"])
    for camera, times in wanted.items():
        where = f"scene {name}, camera {camera}"
        video = decoding.decode_video(record["videos"][camera], where)
        frames = len(record["animation_time"])
        if len(video) != frames:
            raise InputError(f"{where}: {len(video)} frames, but there are {frames} animation times")
        yield from ((camera, time, video[time]) for time in times)
