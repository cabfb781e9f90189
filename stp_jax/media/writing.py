"""Writes videos: H.264 for everyone, and forms for editors, 8 or 10 bits, with sound or without.

Colours are tagged as limited range with the primaries and transfer function of BT.709. The matrix is that
which players without tags take: of BT.709 from 720 lines on, of BT.601 for less.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from stp_jax.errors import InputError
from stp_jax.files import new_file, replace_file
from stp_jax.media import sound as sounds
from stp_jax.media.lazy import Pictures, Video
from stp_jax.media.sound import Sound


class Form(NamedTuple):
    """A way to write a result besides the usual one.

    Attributes:
      name: of its file or folder.
      deep: whether it has more than 8 bits.
      says: what it is.
    """

    name: str
    deep: bool
    says: str


FORMS = {
    "png": Form("result_png", False, "a folder of numbered PNGs, as the model made them"),
    "png16": Form("result_png16", True, "a folder of numbered PNGs of 16 bits"),
    "lossless": Form("result.mkv", False, "FFV1 in RGB, without loss"),
    "10bit": Form("result_10bit.mp4", True, "H.265 (Main 10) with 10 bits, 4:2:0"),
    "prores": Form("result.mov", True, "ProRes 422 HQ with 10 bits, for editors"),
    "webp": Form("result.webp", False, "an animated WebP that loops, for pages and messages"),
}


def write_form(
    form: str, folder: str | os.PathLike, frames: Video, fps: float, sound: Sound | None = None
) -> None:
    """Writes a video in one of `FORMS` to a new file or folder of the form's name in `folder`.

    Args:
      frames: uint8 or uint16 [F, H, W, 3]; forms that are not deep want uint8.

    Raises:
      InputError: it exists or cannot be written.
    """
    path = Path(folder, FORMS[form].name)
    if form in ("png", "png16"):
        _write_pictures(path, frames if form == "png" else _deep(frames))
    elif form == "webp":
        _write_webp(path, frames, fps)
    elif form == "lossless":
        _check(frames, (np.uint8,))
        rgb = ((picture.reformat(format="bgr0")) for picture in map(_rgb_frame, frames))
        _encode(path, rgb, fps, "ffv1", "bgr0", frames.shape, {"level": "3", "slicecrc": "1"}, sound, "flac")
    else:
        across, down = (2, 2) if form == "10bit" else (2, 1)
        padded = _padded(_deep(frames), across, down)
        hd = padded.shape[1] >= 720
        ten = (_ten_bits(frame, hd, halved_rows=down == 2) for frame in padded)
        if form == "10bit":
            # With B-frames FFmpeg now and then gives videos of one or two frames times that MP4 refuses.
            options = {"crf": "8", "x265-params": "log-level=none:bframes=0"}
            _encode(path, ten, fps, "libx265", "yuv420p10le", padded.shape, options, sound, "aac", tag="hvc1")
        else:
            options = {"profile": "3", "vendor": "apl0"}
            _encode(path, ten, fps, "prores_ks", "yuv422p10le", padded.shape, options, sound, "pcm_s16le")


def write_video(
    path: str | os.PathLike,
    frames: Video,
    fps: float,
    *,
    crf: int = 12,
    pixel_format: str = "yuv420p",
    sound: Sound | None = None,
) -> None:
    """Writes uint8 `[F, H, W, 3]` as H.264, whole or not at all.

    Args:
      path: a new file; its suffix names the container (.mp4, .mkv, .mov).
      crf: x264's quality, 0 (lossless in YUV) to 51.
      pixel_format: `yuv420p` plays everywhere (odd sizes get their last row or column doubled); `yuv444p`
        keeps the colour resolution of small training videos; halving it costs 10 dB at 128 pixels.
      sound: becomes an AAC track.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    frames = frames if isinstance(frames, Pictures) else np.asarray(frames)
    _check(frames, (np.uint8,))
    if pixel_format == "yuv420p":
        frames = _padded(frames, 2, 2)
    yuv = (_yuv_frame(frame, pixel_format) for frame in frames)
    _encode(path, yuv, fps, "libx264", pixel_format, frames.shape, {"crf": str(crf)}, sound, "aac")


def write_pictures(
    path: str | os.PathLike,
    pictures: Iterable[np.ndarray],
    fps: float,
    *,
    crf: int = 16,
    key_frame_every: int = 16,
    pixel_format: str = "yuv420p",
) -> None:
    """Writes pictures, as they come, as an H.264 video of data: one thread, and key frames at short steps.

    Only a few pictures are in memory at a time. One thread writes the same bytes on every machine, and leaves
    the other cores to other videos.

    Args:
      path: a new file; its suffix names the container.
      pictures: uint8 RGB [H, W, 3], H and W even unless the format is `yuv444p`; at least one.
      crf: x264's quality, 0 to 51.
      key_frame_every: frames from one key frame to the next, at most.
      pixel_format: `yuv420p` or `yuv444p`, see `write_video`.

    Raises:
      InputError: `path` exists or cannot be written; what making a picture raises.
    """
    coming = iter(pictures)
    first = next(coming)
    shape = (1, *first.shape)
    if (
        first.dtype != np.uint8
        or first.ndim != 3
        or first.shape[2] != 3
        or (pixel_format == "yuv420p" and any(n % 2 for n in first.shape[:2]))
    ):
        raise ValueError(f"pictures must be uint8 [H, W, 3] of even size, not {first.dtype} {first.shape}")
    yuv = (_yuv_frame(picture, pixel_format) for picture in itertools.chain([first], coming))
    # As small and as near to the pictures as by x264's own preset, in half of the time.
    options = {"crf": str(crf), "g": str(key_frame_every), "threads": "1", "preset": "veryfast"}
    _encode(path, yuv, fps, "libx264", pixel_format, shape, options, None, "aac")


@contextlib.contextmanager
def video_writer(
    path: str | os.PathLike, height: int, width: int, fps: float, *, crf: int = 12
) -> Iterator[Callable[[np.ndarray], None]]:
    """As `write_video` in yuv444p, the same bytes, for frames that come one by one.

    Yields what takes a frame, uint8 [H, W, 3], after the other; the file appears when the block ends well.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    options, shape = {"crf": str(crf)}, (1, height, width)
    with _opened(path, fps, "libx264", "yuv444p", shape, options) as (container, stream):
        yield lambda frame: container.mux(stream.encode(_yuv_frame(frame, "yuv444p")))
        container.mux(stream.encode())


def _check(frames: Video, dtypes: tuple[type, ...]) -> None:
    if frames.dtype not in dtypes or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        kinds = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise ValueError(
            f"frames must be {kinds} [F, H, W, 3], F > 0, not {frames.dtype} {list(frames.shape)}"
        )


def _padded(frames: Video, across: int, down: int) -> Video:
    height, width = frames.shape[1:3]
    more = ((0, -height % down), (0, -width % across), (0, 0))
    if isinstance(frames, Pictures):
        return frames.each(lambda picture: np.pad(picture, more, mode="edge"))
    return np.pad(frames, ((0, 0), *more), mode="edge")


def _rgb_frame(frame: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")


def _yuv_frame(frame: np.ndarray, pixel_format: str) -> av.VideoFrame:
    return _rgb_frame(frame).reformat(
        format=pixel_format,
        dst_colorspace=Colorspace.ITU709 if len(frame) >= 720 else Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
    )


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike,
    fps: float,
    codec: str,
    pixel_format: str,
    shape: tuple[int, ...],
    options: dict[str, str],
    tag: str | None = None,
) -> Iterator[tuple[Any, Any]]:
    """A new file with one stream of pictures: container and stream."""
    with new_file(path) as partial, av.open(str(partial), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(60_000))
        stream.height, stream.width = shape[1:3]
        stream.pix_fmt = pixel_format
        stream.options = options
        context = stream.codec_context
        if tag is not None:
            context.codec_tag = tag
        if pixel_format != "bgr0":  # RGB has no matrix
            context.color_range, context.colorspace = ColorRange.MPEG, 1 if shape[1] >= 720 else 6
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        yield container, stream


def _encode(
    path: str | os.PathLike,
    pictures: Iterable[av.VideoFrame],
    fps: float,
    codec: str,
    pixel_format: str,
    shape: tuple[int, ...],
    options: dict[str, str],
    sound: Sound | None,
    sound_codec: str,
    *,
    tag: str | None = None,
) -> None:
    with _opened(path, fps, codec, pixel_format, shape, options, tag) as (container, stream):
        track = None if sound is None else sounds.encode(container, sound, sound_codec)
        if track is None:
            for picture in pictures:
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
            return
        # A player wants both side by side in the file.
        packets = [packet for picture in pictures for packet in stream.encode(picture)]
        packets += [*stream.encode(), *track]
        for packet in sorted(packets, key=_moment):
            container.mux(packet)


def write_joined(path: str | os.PathLike, parts: Sequence[Path], frames: Sequence[int], fps: float) -> None:
    """Joins videos of one size that `write_video` wrote, one after the other; nothing is encoded anew.

    An older file of that name is replaced.

    Args:
      frames: of each part.

    Raises:
      OSError: it cannot be written; its `filename` is `path`.
    """
    start = 0
    with replace_file(path) as partial, av.open(str(partial), "w") as container:
        track: Any = None
        for part, count in zip(parts, frames, strict=True):
            with av.open(str(part)) as video:
                stream = video.streams.video[0]
                track = track or container.add_stream_from_template(stream)
                for packet in video.demux(stream):
                    if packet.dts is not None and packet.pts is not None:
                        shift = round(start / fps / packet.time_base)
                        packet.dts, packet.pts, packet.stream = packet.dts + shift, packet.pts + shift, track
                        container.mux(packet)
            start += count


def _moment(packet: Any) -> float:
    return float((packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base)


def _deep(frames: Video) -> Video:
    """uint16 of uint8 or uint16."""
    _check(frames, (np.uint8, np.uint16))
    if frames.dtype == np.uint16:
        return frames
    if isinstance(frames, Pictures):
        return frames.each(lambda picture: picture.astype(np.uint16) * 257)
    return frames.astype(np.uint16) * 257


def to_8_bits(frames: np.ndarray, *, truncated: bool = False) -> np.ndarray:
    """uint8 of uint16; rounded, or truncated as official pixels are."""
    return ((frames.astype(np.uint32) + (0 if truncated else 128)) // 257).astype(np.uint8)


def _ten_bits(frame: np.ndarray, hd: bool, *, halved_rows: bool) -> av.VideoFrame:
    """YUV of 10 bits, limited range, from RGB uint16 [H, W, 3]; FFmpeg's own is off by a level or two.

    ITU-R BT.709 and BT.601: Y' = Kr R' + Kg G' + Kb B', 876 steps from 64; Cb = (B' - Y') / 2 (1 - Kb), 896
    steps around 512. Chroma lies on every other column, and between two rows, as players assume.
    """
    kr, kb = (0.2126, 0.0722) if hd else (0.299, 0.114)
    red, green, blue = np.moveaxis(frame.astype(np.float32) / 65535, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    planes = [64 + 876 * luma]
    for colour, share in ((blue, kb), (red, kr)):
        chroma = (colour - luma) / (2 - 2 * share)
        wide = np.pad(chroma, ((0, 0), (1, 1)), mode="edge")
        chroma = (wide[:, :-2:2] + 2 * wide[:, 1:-1:2] + wide[:, 2::2]) / 4
        if halved_rows:
            chroma = (chroma[::2] + chroma[1::2]) / 2
        planes.append(512 + 896 * chroma)
    height, width = luma.shape
    made = av.VideoFrame(width, height, "yuv420p10le" if halved_rows else "yuv422p10le")
    for plane, values in zip(made.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
        rows[:, : values.shape[1]] = np.round(values)
        plane.update(rows.tobytes())
    made.colorspace, made.color_range = 1 if hd else 6, ColorRange.MPEG
    return made


def _write_pictures(folder: Path, frames: Video) -> None:
    """PNGs `0000.png` ... in a new folder, all or none."""
    _check(frames, (np.uint8, np.uint16))
    save: Callable[[Path, np.ndarray], None] = _save_8 if frames.dtype == np.uint8 else _save_16
    if folder.exists():
        raise InputError(f"{folder} exists already and is not overwritten: choose another name.")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        for number, frame in enumerate(frames):
            save(partial / f"{number:04d}.png", frame)
        partial.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_webp(path: Path, frames: Video, fps: float) -> None:
    """WebP has whole milliseconds: each frame ends at the millisecond nearest to its time."""
    _check(frames, (np.uint8,))
    ends = np.rint(1000 * np.arange(len(frames) + 1) / fps).astype(int)
    first, *others = map(Image.fromarray, frames)
    with new_file(path) as partial:
        first.save(
            partial,
            "WEBP",
            save_all=True,
            append_images=others,
            duration=np.diff(ends).tolist(),
            loop=0,
            quality=90,
            method=6,
        )


def _save_8(path: Path, frame: np.ndarray) -> None:
    Image.fromarray(frame).save(path)


def _save_16(path: Path, frame: np.ndarray) -> None:
    """Pillow has no colours of 16 bits."""
    context: Any = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = frame.shape[1], frame.shape[0], "rgb48be"
    context.time_base = Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb48be")
    packets = [*context.encode(picture), *context.encode(None)]
    path.write_bytes(b"".join(map(bytes, packets)))
