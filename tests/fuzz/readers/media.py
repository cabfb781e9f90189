"""Readers of videos and animations: containers and codecs that people have, pictures of 32 x 32."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import inputs, mutators
from tests.media.exr_files import write_exr
from tests.media.video_files import encode, gradient_video

#: file name, codec, pixel format, options of the codec
FILES = (
    ("h264.mp4", "libx264", "yuv420p", {}),
    ("fields.mp4", "libx264", "yuv420p", {"x264-params": "tff=1"}),
    ("h264.ts", "libx264", "yuv420p", {"g": "3"}),
    (
        "hevc.mp4",
        "libx265",
        "yuv420p10le",
        {"x265-params": "log-level=none:colorprim=bt2020:transfer=arib-std-b67"},
    ),
    ("vp8.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0"}),
    ("vp9.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0"}),
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {}),
    ("mpeg4.avi", "mpeg4", "yuv420p", {}),
    ("mjpeg.avi", "mjpeg", "yuvj420p", {}),
    ("prores.mov", "prores_ks", "yuva444p10le", {"profile": "4"}),
    ("lossless.mkv", "ffv1", "gbrp10le", {}),
    ("png.mov", "png", "rgba", {}),
)


def _encoded(work: Path) -> list[inputs.Seed]:
    seeds = []
    for name, codec, pixel_format, options in FILES:
        pts = [0, 1, 2, 5, 6, 7] if name.endswith(("mkv", "mp4")) else None
        video = gradient_video(6, 32, 32)
        path = encode(work / name, video, codec, pixel_format, pts=pts, codec_options=options)
        seeds.append(inputs.Seed({name: path.read_bytes()}, name, mutators.BYTES))
    return seeds


def _animations(work: Path) -> list[inputs.Seed]:
    rng = np.random.default_rng(0)
    seeds = []
    for mode, shape in (("L", (32, 32)), ("RGBA", (32, 32, 4))):
        pictures = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(4)]
        for suffix, options in (("gif", {}), ("webp", {"lossless": True}), ("webp", {"quality": 40})):
            path = work / f"{mode}.{suffix}"
            pictures[0].save(
                path, save_all=True, append_images=pictures[1:], duration=[40, 80, 0, 120], **options
            )
            seeds.append(inputs.Seed({path.name: path.read_bytes()}, path.name, mutators.BYTES))
    return seeds


def _pictures(work: Path) -> list[inputs.Seed]:
    plane = np.linspace(0, 1, 1024, dtype=np.float16).reshape(32, 32)
    chromaticities = ("chromaticities", np.array([0.7, 0.3, 0.2, 0.8, 0.1, 0.1, 0.3, 0.3], "<f4").tobytes())
    write_exr(work / "a.exr", dict.fromkeys("ABGR", plane), chromaticities=chromaticities)
    write_exr(work / "grey.exr", {"Y": plane.astype(np.float32)})
    for name in ("a.png", "a.jpg"):
        Image.fromarray(gradient_video(1, 32, 32)[0]).save(work / name)
    names = ("a.exr", "grey.exr", "a.png", "a.jpg")
    return [inputs.Seed({name: (work / name).read_bytes()}, name, mutators.BYTES) for name in names]


def _read_still(folder: Path) -> None:
    from stp_jax.media import stills

    (path,) = folder.iterdir()
    stills.read_still(path, 3, 16, 16)


def _read_clip(folder: Path) -> None:
    from stp_jax import media

    (path,) = folder.iterdir()
    media.read_clip(path, 9, 16, 16)


def _read_video(folder: Path) -> None:
    from stp_jax import media

    (path,) = folder.iterdir()
    media.read_video(path, max_frames=30)


def _read_official(folder: Path) -> None:
    from stp_jax.official.clip import read_official_clip

    (path,) = folder.iterdir()
    read_official_clip(path, 9, 16, 16, start=0.1)


READERS = [
    inputs.Reader("videos", _encoded, _read_clip),
    inputs.Reader("videos, frame by frame", _encoded, _read_video, share=0.5),
    inputs.Reader("videos, official clips", _encoded, _read_official, share=0.5),
    inputs.Reader("animations", _animations, _read_clip),
    inputs.Reader("pictures", _pictures, _read_still, share=0.5),
]
