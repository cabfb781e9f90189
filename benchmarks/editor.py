"""How quickly the editor answers: from an edit to the page that shows it, and to the model's preview.

    python benchmarks/editor.py                                   # the bundled clip and model
    python benchmarks/editor.py --edits 40 -- --weights models --video clip.mp4    # flags of the editor

Starts the editor and drives its page in Chromium (pip install playwright, apt-get install chromium). An edit
moves a point of the clock through the page's own text field. It is answered when the curve that the page
shows has the point; the picture of the geometry follows, and has a time of its own. Edits are made while
previews are sampled, each of which the next edit ends. A preview's time begins with the edit, so that it
holds the pause of 0.4 s after which it is asked for.

Other work on the machine makes all of these longer, but not the processor times: those of the server and of
the browser from an edit to its picture, and of the process that samples for a preview.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from stp_jax.command_line import Parser, count

ROOT = Path(__file__).parents[1]
_EDIT_LIMIT = 10_000  # milliseconds: an edit that takes longer was lost
# Milliseconds from a text in the clock's field to a curve that has it, and to another picture.
_EDIT = """([text, limit]) => new Promise((resolve, reject) => {
    const shown = () => document.querySelector('svg.stp-clock').dataset.text;
    const picture = () => document.querySelector('img[src^=blob]').src;
    const field = [...document.querySelectorAll('input')].find(one => one.value === shown());
    const before = picture(), begin = performance.now();
    let answered = 0;
    const watch = () => {
        const gone = performance.now() - begin;
        if (!answered && shown() === text) answered = gone;
        if (answered && picture() !== before) resolve([answered, gone]);
        else if (gone > limit) reject(new Error(`lost: the clock is ${shown()}, not ${text}`));
        else setTimeout(watch, 2);
    };
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, text + ';');
    field.dispatchEvent(new Event('input', {bubbles: true}));
    watch();
})"""
# Whether the line about the preview has a text.
_STATUS = """text => [...document.querySelectorAll('p')].some(one =>
    /preview/.test(one.innerText) && one.innerText.includes(text))"""


def _clock(last: int, moment: int) -> str:
    return f"0:{moment}, {last}:{last}"


class Processes:
    """Processor time of the server, of the process that samples, and of the browser, by Linux's /proc.

    Args:
      editor, browser: the numbers of processes.
    """

    def __init__(self, editor: int, browser: int):
        self._editor, self._browser = editor, browser

    def now(self) -> dict[str, float]:
        """Seconds so far."""
        samples = [pid for pid in _family(self._editor) if pid != self._editor]
        return {
            "server": _seconds(self._editor),
            "sampling": sum(map(_seconds, samples)),
            "browser": sum(map(_seconds, _family(self._browser))),
        }


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    made = [pid]
    for one in made:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                made += map(int, (task / "children").read_text().split())
    return made


def _seconds(pid: int) -> float:
    made = 0
    with contextlib.suppress(OSError):  # it, or one of its threads, has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            made += int((task / "schedstat").read_text().split()[0])
    return made / 1e9


class Figures:
    """What was measured: milliseconds of edits, seconds of previews, processor times of both."""

    def __init__(self) -> None:
        self.answers: list[float] = []
        self.pictures: list[float] = []
        self.previews: list[float] = []
        self.of_edits: list[dict[str, float]] = []
        self.of_previews: list[dict[str, float]] = []
        self.met = 0  # edits that came while a preview was being made

    def show(self) -> None:
        def both(values: list[float], form: str) -> str:
            return f"median {np.median(values):{form}}, longest {max(values):{form}}, of {len(values)}"

        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
        print(f"edit to page, ms: {both(self.answers, '.0f')}")
        print(f"  while a preview was being made: {self.met}")
        print(f"edit to picture of the geometry, ms: {both(self.pictures, '.0f')}")
        for what in ("server", "browser"):
            spent = [1000 * one[what] for one in self.of_edits]
            print(f"  processor time of the {what}, ms: {both(spent, '.0f')}")
        print(f"edit to preview, s: {both(self.previews, '.1f')}")
        print(
            f"  processor time of sampling, s: {both([one['sampling'] for one in self.of_previews], '.1f')}"
        )


def _spent(since: dict[str, float], processes: Processes) -> dict[str, float]:
    now = processes.now()
    return {what: now[what] - before for what, before in since.items()}


def measure(page: Any, processes: Processes, edits: int, previews: int, step: Step) -> Figures:
    """Makes edits and previews.

    Args:
      page: of Playwright, which shows the editor.
    """
    made = Figures()
    last = int(page.locator("svg.stp-clock").get_attribute("data-last"))

    def edit(moment: int) -> list[float]:
        return page.evaluate(_EDIT, [_clock(last, moment), _EDIT_LIMIT])

    step.name = "the first preview: the model is loaded and compiled"
    page.wait_for_function(_STATUS, arg="is done")
    edit(last)
    for number in range(edits):
        step.name = f"edit {number + 1} of {edits}"
        page.wait_for_timeout(1200)  # until a preview is at work, which the edit ends
        made.met += not page.evaluate(_STATUS, "is done")
        before = processes.now()
        answer, picture = edit(number % last)
        made.of_edits.append(_spent(before, processes))
        made.answers.append(answer)
        made.pictures.append(picture)
    page.wait_for_function(_STATUS, arg="is done")
    for number in range(previews):
        step.name = f"preview {number + 1} of {previews}"
        begin, before = time.monotonic(), processes.now()
        edit((edits + number) % last)
        page.wait_for_function(f"text => !({_STATUS})(text)", arg="is done")
        page.wait_for_function(_STATUS, arg="is done")
        made.previews.append(time.monotonic() - begin)
        made.of_previews.append(_spent(before, processes))
    return made


class Step:
    """What is being measured, to be said when it does not end."""

    name = "the editor begins"


@contextlib.contextmanager
def serving(words: list[str], out: str, limit: float, step: Step) -> Iterator[tuple[str, int]]:
    """Address and number of an editor's process, which is ended after `limit` seconds, with all it started.

    Raises:
      InputError: it does not begin, or the limit has passed.
    """
    command = [sys.executable, "-m", "stp_jax.edit", "--port", "0", "--out", out, *words]
    editor = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    late = threading.Event()

    def end() -> None:
        late.set()
        for pid in reversed([*_family(editor.pid), *_family(os.getpid())[1:]]):
            with contextlib.suppress(OSError):
                os.kill(pid, 9)

    timer = threading.Timer(limit, end)
    timer.daemon = True
    timer.start()
    try:
        assert editor.stdout is not None
        address = next((m[0] for line in editor.stdout if (m := re.search(r"http://\S+", line))), None)
        if address is None:
            raise InputError("The editor did not begin, see above.")
        yield address, editor.pid
        step.name = "the editor ends"
        editor.terminate()
        editor.wait()
    except Exception as error:  # what ends the processes makes any call to them fail
        if not late.is_set():
            raise
        raise InputError(f"Not done after {limit:g} s (--limit), at: {step.name}.") from error
    finally:
        timer.cancel()
        editor.kill()
        editor.wait()


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmarks/editor.py", description=__doc__)
    parser.add_argument("--edits", type=count, default=20, help="(%(default)s)")
    parser.add_argument("--previews", type=count, default=3, help="(%(default)s)")
    parser.add_argument("--limit", type=count, default=600, help="seconds, after which it ends (%(default)s)")
    parser.add_argument("editor", nargs="*", metavar="FLAG", help="of the editor, after --")
    flags = parser.parse_args(argv)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InputError("The page is driven by playwright: pip install playwright") from None
    if browser is None:
        raise InputError("There is no Chromium: apt-get install chromium")
    step = Step()
    with (
        tempfile.TemporaryDirectory() as out,
        serving(flags.editor, out, flags.limit, step) as (address, pid),
        sync_playwright() as playwright,
    ):
        step.name = "the browser begins"
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(1000 * flags.limit)
        page.goto(address)
        page.wait_for_selector("svg.stp-clock")
        choice = '//label[text()="Right"]/ancestor::div[contains(@class,"Flex-root")][1]//input'
        page.locator(f"xpath={choice}").first.click()
        page.get_by_role("option", name="geometry, at once", exact=True).click()
        page.get_by_role("tab", name="Make", exact=True).click()
        driver = next(child for child in _family(os.getpid())[1:] if child not in _family(pid))
        figures = measure(page, Processes(pid, driver), flags.edits, flags.previews, step)
        step.name = "the browser ends"
        chromium.close()
    figures.show()


if __name__ == "__main__":
    main()
