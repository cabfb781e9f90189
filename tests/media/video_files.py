"""Video files for tests, good and broken, written with PyAV alone."""

from fractions import Fraction

import av
import numpy as np
from PIL import Image


def gradient_video(frames=12, height=48, width=64):
    """Smooth pictures, so that coding loses little; brightness of channel 0 tells the frame."""
    y, x = np.mgrid[:height, :width]
    video = np.zeros((frames, height, width, 3), np.uint8)
    for i in range(frames):
        video[i] = np.stack([np.full_like(x, 20 + 10 * i), y * 200 // height, x * 200 // width], -1)
    return video


def encode(
    path,
    frames,
    codec="libx264",
    pixel_format="yuv420p",
    pts=None,
    options=None,
    source_format="rgb24",
    codec_options=None,
    rate=20,
):
    """Writes a file with PyAV alone, as other programs would."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        stream.options = codec_options or {}
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=source_format)
            picture.time_base = Fraction(1, rate)
            picture.pts = i if pts is None else pts[i]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_mp4(path, **options):
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    return encode(path, noise, options=options)


def break_file(kind, folder):
    path = folder / f"{kind}.mp4"
    if kind == "missing":
        pass
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no video\n" * 100)
    elif kind == "text.txt":  # FFmpeg would play it as letters
        path = folder / "notes.txt"
        path.write_text("this is no video\n" * 100)
    elif kind == "sound":
        path = folder / "sound.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
    elif kind == "one frame":
        encode(path, gradient_video(1))
    elif kind == "photo":
        path = folder / "photo.png"
        Image.fromarray(gradient_video(1)[0]).save(path)
    elif kind == "truncated":
        data = write_mp4(path).read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10])
    elif kind == "truncated, header first":
        data = write_mp4(path, movflags="+faststart").read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10])
    elif kind == "truncated.mkv":
        path = folder / kind
        data = write_mp4(path).read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10])
    elif kind == "only a header":
        data = write_mp4(path, movflags="+faststart").read_bytes()
        path.write_bytes(data[: data.index(b"mdat") + 4])
    elif kind == "one frame left":
        data = encode(path, gradient_video(40, 96, 96), options={"movflags": "+faststart"}).read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10])  # the first picture is most of this file
    return path


#: kind of a broken file: what the error says of it
BROKEN = {
    "missing": "no such file",
    "folder": "is a folder without pictures",
    "empty": "empty",
    "text": "not a video",
    "text.txt": "no video stream",
    "sound": "no video stream",
    "one frame": "one frame",
    "photo": "one frame",
    "truncated": "truncated",
    "truncated, header first": "truncated or damaged",
    "truncated.mkv": "truncated or damaged",
    "one frame left": "truncated or damaged",
    "only a header": "not one frame",
}
