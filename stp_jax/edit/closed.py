"""Work of tabs that were closed, lost their connection or were loaded again: it is kept for a while.

A tab knows its own work by a key in the browser's sessionStorage, which outlives a reload and a lost
connection, but not the tab. So that work comes back by itself; that of other tabs is offered with a button.
"""

from __future__ import annotations

import html
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.controls.keyframes import Keyframes
from stp_jax.edit.state import State
from stp_jax.edit.takes import MOST_BYTES, Takes

SECONDS = 1800.0  # that work is kept
_MOST = 8  # tabs
_BY_ITSELF = 60.0  # seconds after a page opens; the server may notice a lost connection 40 s late

# An image runs a script when it is shown; a script element in a page that has been loaded does not run.
_PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
# The button of a tab's own work is pressed, as a person would. Of a connection that was lost and is there
# again the page is loaded anew: the panels' places depend on a window without panels.
_SCRIPT = """
const kept=sessionStorage, own='KEY', offers=OFFERS;
if(window.stpPage && window.stpPage!=='PAGE'){location.reload();return;}
window.stpPage='PAGE';
if(kept.stpTab!==own){kept.stpBefore=kept.stpTab||'';kept.stpTab=own;}
const label=offers[kept.stpBefore];
const press=tries=>{
const found=[...document.querySelectorAll('button')].find(one=>one.textContent.trim()===label);
if(found){kept.stpBefore='';found.click();}
else if(tries)setTimeout(()=>press(tries-1),50);};
if(label)press(40);"""


class Closed(NamedTuple):
    """What a tab had.

    Attributes:
      key: of the tab.
      at: when it closed, by `time.time`.
      state, kept, takes, chosen, frame: as in `page.Page`.
      folder: where its keyframes are, if they were not saved.
      rendering: a full render was under way, which has ended.
    """

    key: str
    at: float
    state: State
    kept: Keyframes
    takes: Takes
    chosen: int
    frame: int
    folder: Path | None
    rendering: bool

    @property
    def label(self) -> str:
        """Of the button that brings it back."""
        clock = time.strftime("%H:%M:%S", time.localtime(self.at))
        count = len(self.state.keys.keyframes)
        return f"Restore {clock}, {count} keyframe{'s' * (count != 1)}"

    @property
    def bytes(self) -> int:
        videos = [self.takes.preview, *self.takes.kept]
        return sum(one.video.nbytes for one in videos if one) + self.state.source.clip.frames.nbytes

    def forget(self) -> None:
        """Removes the file of its keyframes: the work is in a tab again."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class ClosedTabs:
    """The latest tabs that were closed, for `SECONDS`, as far as their videos fit in memory."""

    def __init__(self) -> None:
        self._tabs: list[Closed] = []
        self._lock = threading.Lock()

    def add(self, closed: Closed) -> None:
        with self._lock:
            self._tabs.append(closed)

    @property
    def tabs(self) -> list[Closed]:
        """The latest one first."""
        oldest, held = time.time() - SECONDS, 0
        made: list[Closed] = []
        with self._lock:
            for one in reversed(self._tabs):
                held += one.bytes
                if one.at >= oldest and len(made) < _MOST and (held <= MOST_BYTES or not made):
                    made.append(one)
            self._tabs = made[::-1]
        return made

    def take(self, key: str) -> Closed | None:
        """The work of a tab, which is then no longer kept; None: it has gone."""
        there = self.tabs
        with self._lock:
            found = next((one for one in there if one.key == key and one in self._tabs), None)
            self._tabs = [one for one in self._tabs if one is not found]
        return found

    def clear(self) -> None:
        """Keeps none of them; files of changes that were not saved stay."""
        with self._lock:
            self._tabs = []


class ClosedPanel:
    """Buttons that bring back what closed tabs had, in the container of a page that is open."""

    def __init__(self, gui: Any, page: Any):
        self._page, self._gui = page, gui
        self._began = time.monotonic()
        self._connection = page.key  # a page may get another key, as work comes back
        self._offered: list[str] | None = None
        self._buttons: list[Any] = []
        self._folder = gui.add_folder("Closed tabs", visible=False)
        self._script = gui.add_html("")
        self.show()

    def show(self) -> None:
        """What there is, after a tab has closed or come back."""
        tabs = self._page.app.closed_tabs.tabs
        young = time.monotonic() - self._began < _BY_ITSELF and not self._page.has_work
        if [one.key for one in tabs] != self._offered:
            self._offered = [one.key for one in tabs]
            for button in self._buttons:
                button.remove()
            with self._folder:
                self._buttons = [self._button(one) for one in tabs]
                if tabs:
                    self._buttons.append(self._forget())
            self._folder.visible = bool(tabs)
        offers = {one.key: one.label for one in tabs} if young else {}
        script = _SCRIPT.replace("OFFERS", json.dumps(offers)).replace("KEY", self._page.key)
        script = script.replace("PAGE", self._connection)
        self._script.content = (
            f'<img alt="" src="{_PIXEL}" style="display:none" onload="{html.escape(script.strip())}">'
        )

    def _button(self, closed: Closed) -> Any:
        page, key = self._page, closed.key
        button = self._gui.add_button(closed.label)
        page.inputs.listen(button, lambda _: page.restore(key), on="click")
        return button

    def _forget(self) -> Any:
        button = self._gui.add_button(
            "Forget them", color="gray", hint="Files of closed tabs stay in closed_N"
        )

        def work(_: Any) -> None:
            self._page.app.closed_tabs.clear()
            self._page.app.offer()

        self._page.inputs.listen(button, work, on="click")
        return button
