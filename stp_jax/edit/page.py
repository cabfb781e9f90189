"""One tab: its state, its panels, its view, and what happens when it is closed."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.controls import keyframes
from stp_jax.controls.keyframes import Keyframes
from stp_jax.edit import scene, view_panel
from stp_jax.edit.clip_panel import ClipPanel
from stp_jax.edit.clips import Source
from stp_jax.edit.closed import Closed, ClosedPanel
from stp_jax.edit.inputs import Inputs
from stp_jax.edit.key_panel import KeyPanel
from stp_jax.edit.make_panel import KEYFRAMES, MakePanel
from stp_jax.edit.state import State
from stp_jax.edit.takes import Takes
from stp_jax.edit.uploads import Guard
from stp_jax.errors import InputError, of_a_disk

_WIDE = 1000  # pixels of the window from which there are two columns of panels
_QUIET = 0.4  # seconds without an edit before a preview begins
_LONGEST = 10.0  # seconds that a closed tab waits for its last edits
_FAILED = "A fault of the editor: {}. The terminal has more."


class Page:
    """What one client of viser sees and does; edits come one after the other.

    Args:
      client: of viser.
      app: the `server.App`.
      source, keys: what it begins with.

    Attributes:
      state: what is edited.
      chosen: the number of the keyframe whose fields are shown.
      frame: of the new video, which is shown.
      rendering: a full render goes on, which edits do not stop.
      inputs: what was entered and is not done yet.
      key: by which the browser's tab knows its work, see `closed`.
    """

    def __init__(self, client: Any, app: Any, source: Source, keys: Keyframes | None):
        self.client, self.app = client, app
        self.key = secrets.token_hex(8)
        self.state = State(source, keys)
        self.kept = self.state.keys  # as they were saved, or at the beginning
        self.takes = Takes(view_panel.PREVIEW)
        self.chosen, self.frame = 0, 0
        self.rendering = self.closed = False
        self.lock = threading.RLock()
        self._keys, self._chosen_at = 0, 0.0  # as they were last shown
        self._folder = Path(tempfile.mkdtemp(prefix="stp_editor_"))
        self._files = 0
        self._timer: threading.Timer | None = None
        self._dragged: tuple[int, np.ndarray] | None = None
        self.guard = Guard(client, self.say)
        self.inputs = Inputs(self.act)
        self.scene = scene.Scene(client.scene, lambda i: self.inputs.do(lambda: self.choose(i)), self._drag)
        with client.atomic():
            self._build()
        self.refresh()
        self.state.changed.append(self._edited)
        self._preview_soon()

    def _build(self) -> None:
        """The panels: two columns where there is room, else one."""
        gui = self.client.gui
        gui.configure_theme(dark_mode=False, show_logo=False, show_share_button=False, control_width="medium")
        gui.set_panel_label("Space-time editor")
        panel = gui.main_panel
        panel.dock_right()
        panel.set_width(310)
        self.closed_tabs = ClosedPanel(gui, self)
        tabs = gui.add_tab_group()
        if self.client.camera.image_width >= _WIDE:
            left = gui.add_panel()
            left.dock_left()
            left.set_width(400)
            first = left.add_tab("Pictures and clock")
        else:
            first = tabs.add_tab("Time")
        with first:
            self.view = view_panel.ViewPanel(gui, self)
        with tabs.add_tab("Keys"):
            self.keys = KeyPanel(gui, self, self.client)
        with tabs.add_tab("Make"):
            self.make = MakePanel(gui, self)
        with tabs.add_tab("Files"):
            self.clip = ClipPanel(gui, self)
        for label, hotkey, modifier, work in (
            ("Undo", "Z", "cmd/ctrl", lambda _: self.state.undo()),
            ("Redo", "Z", "cmd/ctrl+shift", lambda _: self.state.redo()),
        ):
            command = gui.add_command(label, hotkey=hotkey, modifier=modifier)
            self.inputs.listen(command, work, on="trigger")

    # Work ---------------------------------------------------------------------------------------------------

    def act(self, work: Callable[[], Any]) -> None:
        """Does what a person asked for; mistakes appear in the page in the words of the command line."""
        with self.lock:
            if self.closed:
                return
            if not self.attempt(work):
                self.refresh()  # fields show what is, not what was refused
        self.client.flush()

    def attempt(self, work: Callable[[], Any]) -> bool:
        """Does something, and shows its mistakes; False: it was refused."""
        try:
            work()
        except InputError as error:
            self.say(str(error))
            return False
        except Exception as error:
            mistake = of_a_disk(error) if isinstance(error, OSError) else None
            if mistake is None:
                traceback.print_exc()
            self.say(str(mistake or _FAILED.format(error)))
        return True

    def say(self, text: str) -> None:
        """Shows an error."""
        plain = re.sub(r"\s+", " ", text)
        self.client.add_notification("Not possible", plain[:600], color="red", auto_close_seconds=12)

    def choose(self, number: int) -> None:
        """Shows another keyframe, and the frame that it is at; the last one, if there are fewer by now."""
        self.chosen = min(number, len(self.state.keys.keyframes) - 1)
        self.frame = round(self.state.frame_of(self.state.keys.keyframes[self.chosen]))
        self.refresh()

    def _edited(self) -> None:
        keys = self.state.keys.keyframes
        if len(keys) != self._keys:  # the same keyframe stays chosen, where it is still there
            self.chosen = int(np.argmin([abs(self.state.frame_of(key) - self._chosen_at) for key in keys]))
        self.refresh()
        self._preview_soon()

    def refresh(self) -> None:
        """Shows the state everywhere at once, but for pictures, which follow."""
        self._keys = len(self.state.keys.keyframes)
        self.chosen = min(self.chosen, self._keys - 1)
        self._chosen_at = self.state.frame_of(self.state.keys.keyframes[self.chosen])
        self.frame = min(self.frame, self.state.frames - 1)
        with self.client.atomic():
            self.view.show()
            self.keys.show()
            self.scene.draw(self.state, self.chosen)
            self.make.show()
            self.clip.show()

    @property
    def snap(self) -> bool:
        return self.view.snap

    def look(self, pose: np.ndarray, fov: float) -> None:
        """Puts the page's own view at a pose [4, 4], with a vertical field of view in radians."""
        camera = self.client.camera
        camera.wxyz = scene.quaternion(pose)
        camera.position = pose[:3, 3]
        camera.fov = fov

    def load(self, source: Source) -> None:
        """Another clip, with keyframes of its own."""
        self.state = State(source)
        self.kept = self.state.keys
        self.state.changed.append(self._edited)
        self.chosen = self.frame = 0
        self._edited()

    def _drag(self, number: int, pose: np.ndarray) -> None:
        """The latest place of a gizmo; those that came meanwhile are left out."""
        self._dragged = (number, pose)

        def work() -> None:
            dragged, self._dragged = self._dragged, None
            if dragged is not None:
                self.state.drag(*dragged)

        self.inputs.do(work)

    def _preview_soon(self) -> None:
        """Ends the preview of before, and begins another when edits pause."""
        if self._timer is not None:
            self._timer.cancel()
        if self.rendering:
            return
        self.app.worker.stop(self)
        if self.make.auto.value:
            self._timer = threading.Timer(_QUIET, lambda: self.act(self._preview))
            self._timer.daemon = True
            self._timer.start()

    def _preview(self) -> None:
        if not self.rendering:
            self.make.preview()

    def scratch(self, content: str | bytes, name: str = "keyframes.json") -> Path:
        """A new file that goes with the tab."""
        self._files += 1
        folder = self._folder / str(self._files)
        folder.mkdir()
        path = folder / (re.sub(r"[^\w.-]+", "_", name)[-80:] or "file")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    # Closed tabs --------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether there is something here that a page does not begin with."""
        return self.state.touched or self.state.source is not self.app.source or bool(self.takes.kept)

    def _leave(self) -> None:
        """Keeps what is here for later: what was not saved also in a file."""
        if not self.has_work:
            return
        folder = None
        if self.state.keys != self.kept:
            folder = self.app.new_folder("closed")
            keyframes.write(folder / KEYFRAMES, self.state.keys)
            print(f"A tab was closed with changes that were not saved: {folder / KEYFRAMES}", flush=True)
        self.state.changed.clear()
        place = self.chosen, self.frame
        left = Closed(
            self.key, time.time(), self.state, self.kept, self.takes, *place, folder, self.rendering
        )
        self.app.closed_tabs.add(left)

    def restore(self, key: str) -> None:
        """Goes on with the work of a closed tab; what is here is kept in its place."""
        if self.rendering:
            raise InputError("A render goes on in this tab: wait for it, or stop it, or use another tab.")
        found = self.app.closed_tabs.take(key)
        if found is None:
            raise InputError("That work is in another tab by now, or is not kept any more.")
        self.make.stop()
        self._leave()
        self.key = secrets.token_hex(8)
        self.state, self.kept, self.takes = found.state, found.kept, found.takes
        self.chosen, self.frame = found.chosen, found.frame
        self.state.changed = [self._edited]
        found.forget()
        self.make.begin(found.rendering)
        self.refresh()
        self._preview_soon()
        self.app.offer()

    def close(self) -> None:
        """The tab has gone: its work ends, its files go, and what it had is kept for a while."""
        self.inputs.close(_LONGEST)
        self.closed = True
        self.app.worker.stop(self)
        self.view.stop()
        waited = self.lock.acquire(timeout=_LONGEST)  # for an edit that is under way
        try:
            if self._timer is not None:
                self._timer.cancel()
            self.app.worker.stop(self)  # what that edit has asked for
            self._leave()
        finally:
            if waited:
                self.lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)
