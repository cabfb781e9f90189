"""Pictures before and after, the frame that is shown, and the clock."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import numpy as np
from PIL import Image

from stp_jax.controls import animation_time
from stp_jax.edit import clock, geometry, scene
from stp_jax.media import pictures

SOURCE, GEOMETRY, PREVIEW = "source as filmed", "geometry, at once", "latest preview"
_SIDE = 256  # pixels of each picture
_OWN = "your own"
_PAUSE = 0.02  # seconds before pictures are drawn: what an edit says goes out first, and edits gather
_FOLLOW = "Follow: you look through the new camera. Free: you fly yourself, with the mouse and W A S D."


class ViewPanel:
    """Pictures, a slider and the clock in the container of a page that is open.

    The pictures are drawn in a thread of their own: an edit is answered without them, and of edits that come
    quicker than they can be drawn, only the last is.
    """

    def __init__(self, gui: Any, page: Any):
        self._page = page
        self._playing = threading.Event()
        self._pictures: list[str] = []
        self._pictured: Any = None
        self._warp: geometry.Warp | None = None
        self._wanted = threading.Event()
        blank = np.zeros((_SIDE // 2, _SIDE, 3), np.uint8)
        self._image = gui.add_image(blank, format="jpeg", jpeg_quality=88)
        self._slider = gui.add_slider("Frame", 0, max(page.state.frames - 1, 1), 1, 0)
        moving = gui.add_button_group("View", ("Play", "Stop", "Follow", "Free"), hint=_FOLLOW)
        self._drawing = gui.add_html("")
        self._preset = gui.add_dropdown("Clock preset", (_OWN, *animation_time.PRESETS))
        self._text = gui.add_text("Clock", "", hint="frame:source frame, ..., or a preset; Apply takes it")
        apply = gui.add_button("Apply the clock")
        self._snap = gui.add_checkbox("Snap to frames", True)
        self._left = gui.add_dropdown("Left", (SOURCE, GEOMETRY, PREVIEW), initial_value=SOURCE)
        self._right = gui.add_dropdown("Right", (SOURCE, GEOMETRY, PREVIEW), initial_value=PREVIEW)
        self._follows = False
        listen = page.inputs.listen
        listen(moving, self._move, on="click")
        listen(apply, lambda _: self._apply(self._text.value), on="click")
        listen(self._text, self._typed)
        listen(self._preset, lambda name: name != _OWN and page.state.use_clock(name))
        listen(self._slider, self._scrub)
        listen(self._snap, lambda _: self.show())
        for handle in (self._left, self._right):
            listen(handle, lambda _: self.show_frame())
        threading.Thread(target=self._draw_pictures, daemon=True).start()

    @property
    def snap(self) -> bool:
        return self._snap.value

    # What is done -----------------------------------------------------------------------------------------

    def _typed(self, text: str) -> None:
        """After each letter."""
        if text.endswith(clock.COMMIT):
            self._apply(text)

    def _apply(self, text: str) -> None:
        state, text = self._page.state, text.rstrip(clock.COMMIT + " ")
        points = clock.read_points(text)
        keys = [key for key in state.keys.keyframes if key.animation_time is not None]
        inside = all(0 <= value < state.frames for point in points or () for value in point)
        try:
            if points is not None and len(points) == len(keys) and inside:
                state.bend(points, self.snap)
            else:
                state.use_clock(text)
        finally:
            self.show()  # the text that was refused goes

    def _scrub(self, frame: float) -> None:
        self._page.frame = int(frame)
        self.show_frame()

    def _move(self, what: str) -> None:
        """Plays or stops; follows the new camera, or lets the view free."""
        if what == "Play" and not self._playing.is_set():
            self._playing.set()
            threading.Thread(target=self._run, daemon=True).start()
        elif what == "Stop":
            self._playing.clear()
        elif what in ("Follow", "Free"):
            self._follows = what == "Follow"
            self.show_frame()

    def _run(self) -> None:
        """Goes through the frames at the new video's speed."""
        page = self._page
        while self._playing.is_set() and not page.closed:
            page.act(lambda: self.go((page.frame + 1) % page.state.frames))
            time.sleep(1 / page.state.source.rates.new)

    def stop(self) -> None:
        """Ends the threads, of a page that is closed."""
        self._playing.clear()
        self._wanted.set()

    def go(self, frame: int) -> None:
        """Shows another frame."""
        self._page.frame = frame
        self._page.inputs.show(self._slider, frame)
        self.show_frame()

    # What is shown ----------------------------------------------------------------------------------------

    def offer(self, takes: list[str], chosen: str | None = None) -> None:
        """Offers takes to compare; `chosen` goes to the right."""
        options = (SOURCE, GEOMETRY, PREVIEW, *takes)
        for handle in (self._left, self._right):
            before = handle.value
            handle.options = options
            handle.value = before if before in options else PREVIEW
        if chosen is not None:
            self._right.value = chosen

    def show(self) -> None:
        """The clock, after an edit; pictures follow."""
        state = self._page.state
        if self._pictured is not state.source:
            self._pictured = state.source
            self._pictures = clock.thumbnails(state.source.clip.frames)
            self._slider.max = max(state.frames - 1, 1)
        inputs = self._page.inputs
        inputs.show(self._slider, min(self._page.frame, state.frames - 1))
        inputs.show(self._text, clock.as_text(self._points()))
        inputs.show(self._preset, _OWN)
        self.show_frame()

    def _points(self) -> list[tuple[float, float]]:
        """The keys of the clock: frame, source frame."""
        state = self._page.state
        shown = ((state.frame_of(key), state.moment_of(key)) for key in state.keys.keyframes)
        return [(frame, moment) for frame, moment in shown if moment is not None]

    def _draw_clock(self) -> None:
        page, state = self._page, self._page.state
        key = state.keys.keyframes[page.chosen]
        moment = state.moment_of(key)
        selected = None if moment is None else (state.frame_of(key), moment)
        curve = state.path()[1]
        drawing = clock.draw(
            curve, self._points(), self._pictures, page.frame, snap=self.snap, selected=selected
        )
        if self._drawing.content != drawing:
            self._drawing.content = drawing

    def show_frame(self) -> None:
        """The frame that is chosen: in the clock at once, its pictures when they are drawn."""
        self._page.frame = min(self._page.frame, self._page.state.frames - 1)
        self._draw_clock()
        self._wanted.set()

    def _draw_pictures(self) -> None:
        """Draws the pictures that were asked for, until the page is closed."""
        page = self._page
        while not page.closed:
            self._wanted.wait()
            time.sleep(_PAUSE)
            self._wanted.clear()
            page.attempt(self._show_pictures)

    def _show_pictures(self) -> None:
        """Warps without delaying edits, which may go on meanwhile, and shows what was asked for."""
        page = self._page
        with page.lock:
            source, view, frame = page.state.source, page.state.view(), page.frame
        if self._warp is None or self._warp.source is not source:
            self._warp = geometry.Warp(source)
        warped = self._warp(view, frame)
        with page.lock:
            if page.closed or page.state.source is not source:
                return  # another clip was loaded, whose pictures are wanted by now
            with page.client.atomic():
                self._show_pair(warped, frame)
                page.scene.show(source, view, frame, warped)
                if self._follows:
                    page.look(np.asarray(view.c2w[frame], np.float64), scene.upright(view.intrinsics[frame]))
        page.client.flush()

    def _show_pair(self, warped: np.ndarray, frame: int) -> None:
        chosen = (self._left.value, self._right.value)
        shown = {label: self._picture(label, warped, frame) for label in set(chosen)}
        pair = [self._labelled(*shown[label]) for label in chosen]
        self._image.image = np.concatenate([pair[0], np.full((len(pair[0]), 4, 3), 24, np.uint8), pair[1]], 1)

    def _picture(self, label: str, warped: np.ndarray, frame: int) -> tuple[np.ndarray, str]:
        """The picture of a label now, and what is to be said of it."""
        page, state = self._page, self._page.state
        if label == SOURCE:
            return state.source.clip.frames[frame], f"source, frame {frame}"
        shown = geometry.nearest_frame(state.view(), frame)
        plane = "" if state.source.depth is not None else ", flat"
        if label == GEOMETRY:
            return warped, f"geometry of source frame {shown}{plane}"
        take = page.takes.find(label)
        if take is None or take.video.shape != state.source.clip.frames.shape:
            return warped, f"geometry{plane}; the preview comes"
        fresh = take.keys == state.keys or label != PREVIEW
        return take.video[frame], take.name if fresh else f"{take.name}, of before"

    @staticmethod
    def _labelled(picture: np.ndarray, said: str) -> np.ndarray:
        height, width = picture.shape[:2]
        scale = _SIDE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        return np.concatenate([_bar(said, size[0]), np.asarray(image)])


@functools.lru_cache(maxsize=256)
def _bar(said: str, width: int) -> np.ndarray:
    return pictures.label_bar(said, 20, width)
