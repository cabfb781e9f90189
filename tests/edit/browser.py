"""A browser, without which tests are skipped, and the page's fields by their labels."""

import base64
import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

_EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# What draws in three dimensions: the machine's OpenGL, which begins in half of the time on a processor, else
# that of the browser.
_DRAWING = (
    ["--use-angle=gl-egl", "--ignore-gpu-blocklist"],
    ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
)

try:
    import viser  # noqa: F401
    from playwright.sync_api import sync_playwright

    _missing = "" if _EXECUTABLE else "no Chromium: apt-get install chromium"
except ImportError as error:
    _missing = f"{error.name} is missing: pip install -e '.[test]'"
if _missing and os.environ.get("STP_REQUIRE_BROWSER_TESTS"):
    raise RuntimeError(_missing)

needs_browser = pytest.mark.skipif(bool(_missing), reason=_missing)
_PACE = 60  # milliseconds: of the inputs of a panel viser's page sends the last one in 50
WAIT = 60_000  # milliseconds: other tests may need the processors


class Chromium:
    """A browser whose pages reach nothing but this machine."""

    def __init__(self):
        self._playwright = sync_playwright().start()
        for flags in _DRAWING:
            flags = ["--no-sandbox", "--use-gl=angle", *flags]
            self._browser = self._playwright.chromium.launch(executable_path=_EXECUTABLE, args=flags)
            if self._draws():
                break
            self._browser.close()
        else:
            raise RuntimeError(f"{_EXECUTABLE} has no WebGL")

    def _draws(self) -> bool:
        page = self._browser.new_page()
        found = page.evaluate("() => !!document.createElement('canvas').getContext('webgl2')")
        page.close()
        return found

    def open(self, address: str, width: int = 1280, height: int = 800) -> "Editor":
        """The editor's page in a window of its own."""
        return Editor(self._browser.new_context(viewport={"width": width, "height": height}), address)

    def close(self) -> None:
        self._browser.close()
        self._playwright.stop()


class Editor:
    """The editor's page, used in a `with`: errors of its scripts fail the test, and its window closes."""

    def __init__(self, context, address: str):
        self.outside: list[str] = []  # addresses elsewhere that the page asked for
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.route("**/*", self._only_local)
        self.page.set_default_timeout(WAIT)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("websocket", lambda socket: self._note(socket.url))
        self.page.goto(address)
        self.page.wait_for_selector("svg.stp-clock")

    def another(self, address: str) -> "Editor":
        """A tab beside this one, which closes with it."""
        return Editor(self.page.context, address)

    def __enter__(self) -> "Editor":
        return self

    def __exit__(self, kind, *_) -> None:
        self.page.context.close()
        assert kind is not None or not (self.errors or self.outside)

    def _note(self, url: str) -> bool:
        local = "//127.0.0.1:" in url.split("?")[0] or url.startswith(("data:", "blob:"))
        if not local:
            self.outside.append(url)
        return local

    def _only_local(self, route) -> None:
        route.continue_() if self._note(route.request.url) else route.abort()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def fields(self, label: str):
        """The visible inputs beside a label."""
        row = f'//label[text()="{label}"]/ancestor::div[contains(@class,"Flex-root")][1]'
        return self.page.locator(f"xpath={row}//input[not(@type='hidden')]")

    def set(self, label: str, value: object, part: int = 0) -> None:
        field = self.fields(label).nth(part)
        field.fill(str(value))
        field.press("Enter")
        self.page.wait_for_timeout(_PACE)

    def value(self, label: str, part: int = 0) -> str:
        return self.fields(label).nth(part).input_value()

    def choose(self, label: str, option: str) -> None:
        self.fields(label).first.click()
        self.page.get_by_role("option", name=option, exact=True).click()

    @property
    def clock(self):
        return self.page.locator("svg.stp-clock")

    def wait_for_clock(self, text: str) -> None:
        self.page.wait_for_function(
            "text => document.querySelector('svg.stp-clock')?.dataset.text === text", arg=text
        )

    def drag_clock(self, point: int, frame: float, moment: float) -> None:
        """Drags a point of the curve with the pointer."""
        self.clock.scroll_into_view_if_needed()
        place = """(svg, [f, t]) => {
            const d = svg.dataset, at = new DOMPoint(+d.x0 + f / d.last * d.w, d.y0 - t / d.last * d.h);
            const p = at.matrixTransform(svg.getScreenCTM()); return [p.x, p.y]; }"""
        circle = self.clock.locator("[data-key]").nth(point)
        begin = [float(v) for v in circle.get_attribute("data-text").split(":")]
        (x0, y0), (x1, y1) = (self.clock.evaluate(place, list(at)) for at in (begin, (frame, moment)))
        self.page.mouse.move(x0, y0)
        self.page.mouse.down()
        self.page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2)
        self.page.mouse.move(x1, y1)
        self.page.mouse.up()

    def shown_frame(self) -> int:
        """The frame at the line in the clock."""
        return self.clock.evaluate(
            "svg => Math.round((svg.querySelector('line[stroke=\"#2b8a3e\"]').x1.baseVal.value"
            " - svg.dataset.x0) / svg.dataset.w * svg.dataset.last)"
        )

    def wait_for_picture(self, before: str = "") -> str:
        """The address of the pair of pictures, when it is another one than before."""
        found = "document.querySelector('img[src^=blob]')?.src"
        script = f"before => {{ const found = {found}; return found !== before && found }}"
        return self.page.wait_for_function(script, arg=before).json_value()

    def drag_view(self, begin: np.ndarray, end: np.ndarray) -> None:
        """Drags from one place of the scene [3] to another, in the view that the page begins with.

        The clip is the bundled one, whose pivot is 4 m away.
        """
        eye, middle = np.array([-3.6, -2.2, -3.0]), np.array([0, 0, 2.8])
        ahead = (middle - eye) / np.linalg.norm(middle - eye)
        right = np.cross(ahead, [0, -1.0, 0])
        right /= np.linalg.norm(right)
        box = self.page.locator("canvas").first.bounding_box()
        corners = []
        for place in (begin, end):
            x, y, z = np.stack([right, np.cross(ahead, right), ahead]) @ (place - eye)
            scale = 0.5 * box["height"] / np.tan(np.radians(75) / 2) / z  # viser's angle of view
            corners.append(
                (box["x"] + box["width"] / 2 + scale * x, box["y"] + box["height"] / 2 + scale * y)
            )
        (x0, y0), (x1, y1) = corners
        self.page.mouse.move(x0, y0)
        self.page.wait_for_timeout(300)  # until the handle knows that the pointer is on it
        self.page.mouse.down()
        for share in np.linspace(0, 1, 6):
            self.page.mouse.move(x0 + share * (x1 - x0), y0 + share * (y1 - y0))
            self.page.wait_for_timeout(50)
        self.page.mouse.up()

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Looks again and again."""
        end = time.monotonic() + WAIT / 1000
        while not true():
            assert time.monotonic() < end
            self.page.wait_for_timeout(50)

    def drop(self, path: Path) -> None:
        """Drops a file where videos are dropped, as a file manager does."""
        file = base64.b64encode(path.read_bytes()).decode()
        self.page.locator(".stp-drop").evaluate(
            """(area, [file, name]) => {
                const bytes = Uint8Array.from(atob(file), one => one.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], name));
                for (const kind of ['dragover', 'drop'])
                    area.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
            }""",
            [file, path.name],
        )

    def wait_for(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()

    def download(self, button: str) -> bytes:
        with self.page.expect_download() as found:
            self.press(button)
        return Path(found.value.path()).read_bytes()

    def upload(self, button: str, path: Path) -> None:
        with self.page.expect_file_chooser() as found:
            self.press(button)
        found.value.set_files(path)


class Wire:
    """A way to a server of this machine that can be cut, as a network is."""

    def __init__(self, port: int):
        self._to = port
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._to))
                self._ends += ends
                for one, other in (ends, ends[::-1]):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends all connections; new ones are taken."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
