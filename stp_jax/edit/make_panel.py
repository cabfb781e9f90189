"""Previews, renders, takes, and what leaves the page."""

from __future__ import annotations

import html
import time
from pathlib import Path
from typing import Any

from stp_jax.edit import takes
from stp_jax.edit.takes import Take
from stp_jax.edit.worker import Report
from stp_jax.errors import InputError
from stp_jax.files import new_file

_NONE = "none yet"
_ENDED = "The render ended when the tab was closed or lost its connection. Render makes it again."
KEYFRAMES = "keyframes.json"
_EXPORTS = {
    "Video": "result.mp4",
    "Both": "side_by_side.mp4",
    "PNGs": "result_png",
    "Cameras": "new_camera.json",
    "All": "*",
}


class MakePanel:
    """What makes videos, in the container of a page that is open."""

    def __init__(self, gui: Any, page: Any):
        self._page = page
        self._began = 0.0
        self.auto = gui.add_checkbox("Preview after each edit", True)
        self._status = gui.add_markdown("No preview yet.")
        self._bar = gui.add_progress_bar(0.0)
        work = gui.add_button_group("Make", ("Preview", "Render", "Stop"))
        actions = {"Preview": self.preview, "Render": self.render, "Stop": self.stop}
        page.inputs.listen(work, lambda name: actions[name](), on="click")
        self._take = gui.add_dropdown("Take", (_NONE,))
        use = gui.add_button("Back to the keyframes of this take")
        page.inputs.listen(use, lambda _: self._use(), on="click")
        export = gui.add_button_group("Export", tuple(_EXPORTS))
        page.inputs.listen(export, self._export, on="click")
        gui.add_markdown("The same from the command line:")
        self._command = gui.add_html("")

    def show(self) -> None:
        """The command, after an edit."""
        command = html.escape(self._page.state.command(KEYFRAMES))
        self._command.content = (
            '<code class="stp-command" style="display:block;margin:0 0.8em;white-space:pre-wrap;'
            f'overflow-wrap:anywhere;font-size:11px;user-select:all">{command}</code>'
        )

    # Work -------------------------------------------------------------------------------------------------

    def preview(self) -> None:
        """Asks for the model's video in draft quality."""
        page = self._page
        keys = page.state.keys
        words = page.state.source.words(page.scratch(page.state.text()), keys.uses_distance)
        self._start("preview")
        page.app.worker.submit(page, words, lambda report: self._preview_says(report, keys), draft=True)

    def _preview_says(self, report: Report, keys: Any) -> None:
        page = self._page
        if report.video is not None:
            page.takes.preview = Take("preview", report.video, keys)
        page.act(lambda: self._says(report, "preview"))

    def render(self) -> None:
        """Asks for the video in full quality, with all its files."""
        page = self._page
        folder = page.app.new_folder("take")
        with new_file(folder / KEYFRAMES) as partial:
            partial.write_text(page.state.text(), encoding="utf-8")
        keys = page.kept = page.state.keys
        words = page.state.source.words(folder / KEYFRAMES, keys.uses_distance, also=("png",))
        self._start("render")
        page.rendering = True
        page.app.worker.submit(
            page, words, lambda report: self._render_says(report, keys, folder), draft=False, folder=folder
        )

    def _render_says(self, report: Report, keys: Any, folder: Path) -> None:
        page = self._page
        if report.what in ("video", "error"):
            page.rendering = False
        if report.video is not None:
            page.takes.keep(Take(folder.name, report.video, keys, folder))
        page.act(lambda: self._says(report, folder.name))

    def stop(self) -> None:
        """Ends what is being made."""
        page = self._page
        was = page.app.worker.is_busy(page)
        page.app.worker.stop(page)
        page.rendering = False
        self._bar.value = 0.0
        self._status.content = "Stopped." if was else "Nothing is being made."

    def _start(self, what: str) -> None:
        self._began = time.monotonic()
        self._bar.value = 0.0
        self._status.content = f"The {what} waits for the model."

    def _says(self, report: Report, name: str) -> None:
        """A report of the process, shown."""
        page = self._page
        self._bar.value = 100 * report.share
        if report.what == "error":
            self._bar.value = 0.0
            self._status.content = f"The {name} was not made."
            raise InputError(report.said)
        if report.what == "video":
            self._status.content = f"The {name} is done, {report.seconds:.1f} s."
            if name != "preview":
                self._offer(name)
            page.view.show_frame()
            return
        gone = time.monotonic() - self._began
        left = f", about {gone / report.share - gone:.0f} s left" if report.share > 0.05 else ""
        self._status.content = f"{name}: {report.what}, {100 * report.share:.0f} %{left}"

    def begin(self, ended: bool) -> None:
        """Shows the takes of a tab that is restored.

        Args:
          ended: a render was under way when it closed.
        """
        names = self._page.takes.names
        self._offer(names[-1] if names else None)
        self._status.content = _ENDED if ended else "No preview yet."

    def _offer(self, name: str | None) -> None:
        """Offers the takes; `name` is the chosen one."""
        names = self._page.takes.names
        self._take.options = tuple(names) or (_NONE,)
        self._take.value = name or self._take.options[0]
        self._page.view.offer(names, name)

    # Takes ------------------------------------------------------------------------------------------------

    def _chosen(self) -> Take:
        take = self._page.takes.find(self._take.value)
        if take is None or take.folder is None:
            raise InputError("There is no take yet: Render makes one.")
        return take

    def _use(self) -> None:
        self._page.state.open(self._chosen().keys)

    def _export(self, what: str) -> None:
        """Sends a file of the chosen take to the browser."""
        take = self._chosen()
        assert take.folder is not None
        names = _EXPORTS[what]
        path = take.folder / names
        if what == "All":
            name, content = f"{take.name}.zip", takes.packed(take.folder)
        elif path.is_dir():
            name, content = f"{take.name}_{what.lower()}.zip", takes.packed(path)
        elif path.is_file():
            name, content = f"{take.name}_{path.name}", path.read_bytes()
        else:
            raise InputError(f"{path}: is not there any more.")
        self._page.client.send_file_download(name, content, save_immediately=True)
