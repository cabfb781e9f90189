"""A browser, without which tests are skipped, and the page's fields by their labels."""

import os
import shutil
from pathlib import Path

import pytest

_EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The pictures in three dimensions are drawn on the processor.
_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]

try:
    import viser  # noqa: F401
    from playwright.sync_api import sync_playwright

    _missing = "" if _EXECUTABLE else "no Chromium: apt-get install chromium"
except ImportError as error:
    _missing = f"{error.name} is missing: pip install -e '.[test]'"
if _missing and os.environ.get("STP_REQUIRE_BROWSER_TESTS"):
    raise RuntimeError(_missing)

needs_browser = pytest.mark.skipif(bool(_missing), reason=_missing)
WAIT = 60_000  # milliseconds: other tests may need the processors


class Editor:
    """The editor's page, in a browser that reaches nothing but this machine."""

    def __init__(self, address: str, width: int = 1280, height: int = 800):
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=_EXECUTABLE, args=_FLAGS)
        self._open(self._browser.new_context(viewport={"width": width, "height": height}), address)

    def another(self, address: str) -> "Editor":
        """A tab beside this one, which closes with it."""
        made = object.__new__(Editor)
        made._open(self.page.context, address)
        return made

    def _open(self, context, address: str) -> None:
        self.outside: list[str] = []  # addresses elsewhere that the page asked for
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.route("**/*", self._only_local)
        self.page.set_default_timeout(WAIT)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("websocket", lambda socket: self._note(socket.url))
        self.page.goto(address)
        self.page.wait_for_selector("svg.stp-clock")

    def _note(self, url: str) -> bool:
        local = "//127.0.0.1:" in url.split("?")[0] or url.startswith(("data:", "blob:"))
        if not local:
            self.outside.append(url)
        return local

    def _only_local(self, route) -> None:
        route.continue_() if self._note(route.request.url) else route.abort()

    def close(self) -> None:
        self._browser.close()
        self._playwright.stop()

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
