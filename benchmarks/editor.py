"""How quickly the editor answers: from an edit to the page that shows it, and to the model's preview.

    python benchmarks/editor.py                                   # the bundled clip and model
    python benchmarks/editor.py --edits 40 -- --weights models --video clip.mp4    # flags of the editor

Starts the editor and drives its page in Chromium (pip install playwright, apt-get install chromium). An edit
moves a point of the clock through the page's own text field. It is answered when the curve that the page
shows has the point; the picture of the geometry follows. Edits are made while previews are sampled,
each of which the next edit ends. A preview's time begins with the edit, so that it holds the pause of 0.4 s
after which it is asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from stp_jax.command_line import Parser, count

ROOT = Path(__file__).parents[1]
_WAIT = 180_000  # milliseconds
# Milliseconds from a text in the clock's field to a curve that has it.
_EDIT = """text => new Promise(resolve => {
    const shown = () => document.querySelector('svg.stp-clock').dataset.text;
    const field = [...document.querySelectorAll('input')].find(one => one.value === shown());
    const begin = performance.now();
    const watch = () =>
        shown() === text ? resolve(performance.now() - begin) : setTimeout(watch, 2);
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, text + ';');
    field.dispatchEvent(new Event('input', {bubbles: true}));
    watch();
})"""


# Whether the line about the preview has a text.
_STATUS = """text => [...document.querySelectorAll('p')].some(one =>
    /preview/.test(one.innerText) && one.innerText.includes(text))"""


def _clock(last: int, moment: int) -> str:
    return f"0:{moment}, {last}:{last}"


def measure(page: Any, edits: int, previews: int) -> tuple[list[float], list[float], int]:
    """Milliseconds of edits, seconds from an edit to its preview, and how many edits met one at work.

    Args:
      page: of Playwright, which shows the editor.
    """
    last = int(page.locator("svg.stp-clock").get_attribute("data-last"))
    page.wait_for_function(_STATUS, arg="is done", timeout=_WAIT)  # loaded and compiled
    page.evaluate(_EDIT, _clock(last, last))
    answers, running = [], 0
    for number in range(edits):
        page.wait_for_timeout(1200)  # until a preview is at work, which the edit ends
        running += not page.evaluate(_STATUS, "is done")
        answers.append(page.evaluate(_EDIT, _clock(last, number % last)))
    made = []
    for number in range(previews):
        begin = time.monotonic()
        page.evaluate(_EDIT, _clock(last, (number + 5) % last))
        page.wait_for_function(f"text => !({_STATUS})(text)", arg="is done", timeout=_WAIT)
        page.wait_for_function(_STATUS, arg="is done", timeout=_WAIT)
        made.append(time.monotonic() - begin)
    return answers, made, running


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmarks/editor.py", description=__doc__)
    parser.add_argument("--edits", type=count, default=20, help="(%(default)s)")
    parser.add_argument("--previews", type=count, default=3, help="(%(default)s)")
    parser.add_argument("editor", nargs="*", metavar="FLAG", help="of the editor, after --")
    flags = parser.parse_args(argv)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InputError("The page is driven by playwright: pip install playwright") from None
    if browser is None:
        raise InputError("There is no Chromium: apt-get install chromium")
    command = [sys.executable, "-m", "stp_jax.edit", "--port", "0", *flags.editor]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as editor:
        try:
            assert editor.stdout is not None
            address = next((m[0] for line in editor.stdout if (m := re.search(r"http://\S+", line))), None)
            if address is None:
                raise InputError("The editor did not begin, see above.")
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
                page = chromium.new_page(viewport={"width": 1280, "height": 800})
                page.goto(address)
                page.wait_for_selector("svg.stp-clock", timeout=_WAIT)
                page.get_by_role("tab", name="Make", exact=True).click()
                answers, made, running = measure(page, flags.edits, flags.previews)
                chromium.close()
        finally:
            editor.terminate()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    print(f"edit to page, ms: median {np.median(answers):.0f}, longest {max(answers):.0f}, of {len(answers)}")
    print(f"  while a preview was being made: {running}")
    print(f"edit to preview, s: median {np.median(made):.1f}, longest {max(made):.1f}, of {len(made)}")


if __name__ == "__main__":
    main()
