"""Video files in and out, and pictures of videos. Videos are uint8 RGB `[F, H, W, 3]`."""

from stp_jax.files import new_file
from stp_jax.media.fit import fit_image, fit_intrinsics
from stp_jax.media.video import Clip, fit_clip, read_clip, read_frames, read_video
from stp_jax.media.writing import video_writer, write_video

__all__ = [
    "Clip",
    "fit_clip",
    "fit_image",
    "fit_intrinsics",
    "new_file",
    "read_clip",
    "read_frames",
    "read_video",
    "video_writer",
    "write_video",
]
