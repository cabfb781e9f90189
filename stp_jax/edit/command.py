"""A page in the browser where camera path and clock of a new video are directed together (docs/editor.md).

    python -m stp_jax.edit
    python -m stp_jax.edit --video clip.mp4 --source_cameras estimate
    python -m stp_jax.edit --weights models --prompt "a dog runs over a meadow" --keyframes start.json

All flags of sample.py that are about the clip, the model and the sampling are taken, too, and are in the
command that the page shows. --keyframes, --camera and --animation_time are what the page begins with.
It is served for this machine alone, and reads nothing from the network. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from stp_jax.command_line import Parser, number
from stp_jax.controls import cameras, keyframes
from stp_jax.controls.keyframes import Keyframes
from stp_jax.edit import clips
from stp_jax.edit.state import State
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.rerender import runs
from stp_jax.rerender.flags import parse_flags
from stp_jax.rerender.takes import SAME_CAMERA, refuse_idle_flags

_IDLE = ("jobs", "list", "dry_run")


def main_flags(argv: list[str]) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The editor's own flags, and sample.py's. Raises `InputError` as that does."""
    parser = Parser("python -m stp_jax.edit", description=__doc__)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="another address than this machine's own; the page then "
        "needs a token, which is printed (%(default)s)",
    )
    parser.add_argument("--port", type=number(0, 65535, int), default=8765, help="(%(default)s; 0: any)")
    parser.add_argument("--depth", metavar="FILE", help="of the clip, an .npz (docs/editor.md)")
    own, rest = parser.parse_known_args(argv)
    flags = parse_flags(rest)
    for name in _IDLE:
        if getattr(flags, name):
            raise InputError(
                f"--{name}: is for sample.py; the editor makes one video at a time: leave it out."
            )
    return own, flags


def begin(flags: argparse.Namespace, depth: str | None) -> tuple[clips.Source, Keyframes | None]:
    """The clip and the first keyframes that the flags ask for. Raises `InputError`."""
    notes, takes = runs.notes_of(flags)
    if runs.is_long(flags, notes):
        raise InputError(
            f"--frames {flags.frames}: the editor makes one window, of {notes.frames} frames; "
            "sample.py makes longer videos."
        )
    refuse_idle_flags(flags, takes, notes)
    runs.check_model(flags, notes)
    keys = None if flags.keyframes is None else keyframes.read(flags.keyframes)
    source = clips.read(flags, notes, takes, depth)
    state = State(source)
    if keys is not None:
        state.open(keys)
    if flags.video is None and not (flags.keyframes or flags.camera or flags.animation_time):
        state.use_camera(takes.default_camera())  # what sample.py makes without flags
        state.use_clock(takes.default_animation_time())
    if flags.camera is not None:
        preset = flags.camera == SAME_CAMERA or cameras.is_preset(flags.camera)
        state.use_camera(flags.camera) if preset else state.use_camera_file(flags.camera)
    if flags.animation_time is not None:
        state.use_clock(flags.animation_time)
    return source, state.keys


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    own, flags = main_flags(sys.argv[1:] if argv is None else argv)
    from stp_jax.edit.server import App

    App.check_installed()
    source, keys = begin(flags, own.depth)
    print(source.summary)
    app = App(source, keys, own.host, own.port, Path(flags.out or Path("outputs", "editor")))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(f"The editor is at {app.address}\nTakes are written to {app.out}. Ctrl-C ends it.", flush=True)
    try:
        threading.Event().wait()
    finally:
        app.close()
