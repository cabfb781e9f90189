"""The clip and the files: loading, trimming, presets, and saving of keyframes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stp_jax.controls import cameras, keyframes
from stp_jax.edit.make_panel import KEYFRAMES
from stp_jax.errors import InputError
from stp_jax.files import size_text
from stp_jax.rerender.takes import SAME_CAMERA

VIDEO_BYTES, FILE_BYTES = 512 << 20, 64 << 20  # the largest uploads
_OWN = "your own"

# A video that is dropped on it goes into the button's own field, as if it had been chosen there.
_DROP = """<div class="stp-drop" style="margin:0 0.8em 0.5em;padding:0.5em;border:1px dashed #888;
text-align:center;font-size:12px" ondragover="event.preventDefault()" ondrop="event.preventDefault();
const field=document.querySelector('input[type=file][accept=&quot;video/*,image/*&quot;]');
field.files=event.dataTransfer.files;field.dispatchEvent(new Event('change',{bubbles:true}))"
>or drop a video here</div>"""


class ClipPanel:
    """Clip, presets and files in the container of a page that is open."""

    def __init__(self, gui: Any, page: Any):
        self._page = page
        self._uploads(gui)
        state = page.state
        self._shown = state.source
        self._start = gui.add_number("From second", float(state.source.start), min=0.0, step=0.01)
        self._seconds = gui.add_number("Seconds", 0.0, min=0.0, step=0.01, hint="0: as the command line")
        trim = gui.add_button("Trim")
        page.inputs.listen(trim, lambda _: self._trim(), on="click")
        self._camera = gui.add_dropdown("Camera preset", (_OWN, SAME_CAMERA, *cameras.PRESETS))
        page.inputs.listen(self._camera, lambda name: name != _OWN and page.state.use_camera(name))
        self._move = gui.add_text("Camera move", "orbit_left:30:-15", hint="As for --camera")
        apply = gui.add_button("Apply the move")
        page.inputs.listen(apply, lambda _: page.state.use_camera(self._move.value.strip()), on="click")
        self._summary = gui.add_markdown("")

    def _uploads(self, gui: Any) -> None:
        page = self._page
        save = gui.add_button("Save keyframes")
        page.inputs.listen(save, lambda _: self._save(), on="click")
        for label, mime, most, use in (
            ("Open keyframes", "application/json", FILE_BYTES, self._open),
            ("Open a camera file", ".json,.npz,.npy,.txt", FILE_BYTES, self._camera_file),
            ("Open a video", "video/*,image/*", VIDEO_BYTES, self._video),
        ):
            button = gui.add_upload_button(label, mime_type=mime)
            page.guard.limit(button, most, label)
            page.inputs.listen(button, lambda file, use=use: use(file.name, file.content), on="upload")
        self._drop = gui.add_html(_DROP)

    def show(self) -> None:
        """The clip, after an edit."""
        source = self._page.state.source
        inputs = self._page.inputs
        if source is not self._shown:  # another clip or trim: what was typed was for the one before
            self._shown = source
            inputs.used(self._start, self._seconds)
        inputs.show_unless_typed(self._start, float(source.start))
        inputs.show_unless_typed(self._seconds, float(source.duration or 0.0))
        inputs.show(self._camera, _OWN)
        depth = "known" if source.depth is not None else "not known: the picture is warped as a flat wall"
        text = source.summary.replace("->", "→")
        text = re.sub(r"([*_`\[\]<>#])", r"\\\1", text)
        self._summary.content = "\n\n".join([*text.splitlines(), f"Depth: {depth}."])

    def _trim(self) -> None:
        self._page.inputs.used(self._start, self._seconds)
        self._page.state.trim(float(self._start.value), float(self._seconds.value) or None)

    def _save(self) -> None:
        text = self._page.state.text().encode()
        self._page.client.send_file_download(KEYFRAMES, text, save_immediately=True)
        self._page.kept = self._page.state.keys

    def _stored(self, name: str, content: bytes) -> Path:
        """An upload as a file of a name of its own."""
        plain = re.sub(r"[^\w.-]+", "_", Path(name.replace("\\", "/")).name).lstrip(".")[-80:] or "file"
        path = self._page.app.new_folder("upload") / plain
        path.write_bytes(content)
        return path

    def _open(self, name: str, content: bytes) -> None:
        self._check(name, content, FILE_BYTES)
        path = self._page.scratch(content, Path(name).name)
        self._page.state.open(keyframes.read(path))
        self._page.kept = self._page.state.keys

    def _camera_file(self, name: str, content: bytes) -> None:
        self._check(name, content, FILE_BYTES)
        self._page.state.use_camera_file(self._stored(name, content))

    def _video(self, name: str, content: bytes) -> None:
        self._check(name, content, VIDEO_BYTES)
        page = self._page
        page.load(page.state.source.of_video(self._stored(name, content)))

    @staticmethod
    def _check(name: str, content: bytes, most: int) -> None:
        if len(content) > most:
            raise InputError(
                f"{name}: {size_text(len(content))} are too many; at most {size_text(most)} are taken."
            )
