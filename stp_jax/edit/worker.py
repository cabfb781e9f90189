"""Sampling in a process of its own: a page answers while a model works, and its work can be stopped.

There is one process for all tabs, so that a model is in memory once. Jobs of a tab replace each other; those
of several tabs take turns. What a job does is what `sample.py` does with the same words.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError, of_a_disk

if TYPE_CHECKING:
    from stp_jax.rerender.rerenderer import Rerenderer

_GONE = "The process that samples has ended (exit status {}); the next preview starts another one."


class Job(NamedTuple):
    """One video to make."""

    number: int
    words: Sequence[str]  # of sample.py's command line
    draft: bool  # as --speed draft makes it; nothing is written
    folder: str | None = None  # where a full render is written


class Report(NamedTuple):
    """What the process says of a job."""

    number: int
    what: str  # the next part of the work; "error": it failed; "video": it is done
    share: float = 0.0
    said: str = ""  # of an error
    video: np.ndarray | None = None  # uint8 [F, H, W, 3]
    seconds: float = 0.0


class Stopped(Exception):
    """A job is not wanted any more."""


class Worker:
    """The process, started when the first job comes, and again after it has died."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._lock = threading.Lock()
        self._waiting: dict[Any, tuple[Job, Callable[[Report], None]]] = {}  # by owner, in their order
        self._now: tuple[Any, Job, Callable[[Report], None]] | None = None
        self._stopped = self._context.Value("q", -1, lock=False)  # the job that is to end
        self._number = 0
        self._process: Any = None
        self._pipe: Any = None
        self._wake = threading.Event()
        self._closed = False
        threading.Thread(target=self._serve, daemon=True).start()

    def submit(
        self,
        owner: Any,
        words: Sequence[str],
        answer: Callable[[Report], None],
        *,
        draft: bool,
        folder: str | os.PathLike | None = None,
    ) -> int:
        """Asks for a video; an earlier job of the same owner that is not finished is dropped.

        Args:
          answer: is called with each report, from another thread; with none after `stop`.
        """
        with self._lock:
            self._drop(owner)
            self._number += 1
            job = Job(self._number, tuple(words), draft, None if folder is None else str(folder))
            self._waiting[owner] = (job, answer)
        self._wake.set()
        return job.number

    def stop(self, owner: Any) -> None:
        """Drops what an owner has asked for: at once, or after the step of sampling that is under way."""
        with self._lock:
            self._drop(owner)

    def is_busy(self, owner: Any) -> bool:
        with self._lock:
            return owner in self._waiting or (self._now is not None and self._now[0] == owner)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._now = None
        self._wake.set()
        process = self._process
        if process is not None:
            self._stopped.value = self._number
            self._pipe.close()  # by which it ends, if it is not in the middle of a step
            process.join(2)
            process.terminate()
            process.join(5)

    def _drop(self, owner: Any) -> None:
        self._waiting.pop(owner, None)
        if self._now is not None and self._now[0] == owner:
            self._stopped.value = self._now[1].number
            self._now = None

    # In a thread of its own ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            while not self._closed and self._waiting:
                with self._lock:
                    if not self._waiting:
                        break
                    owner = next(iter(self._waiting))
                    job, answer = self._waiting.pop(owner)
                    self._now = (owner, job, answer)
                self._run(job)
                with self._lock:
                    if self._now is not None and self._now[1].number == job.number:
                        self._now = None

    def _run(self, job: Job) -> None:
        """Does a job; whatever goes wrong, the next one is served."""
        try:
            if self._process is None or not self._process.is_alive():
                self._start()
            self._pipe.send(job)
            while True:
                report = self._pipe.recv()
                self._tell(report)
                if report.what in ("video", "error", "stopped"):
                    return
        except Exception as error:
            if not self._closed:
                self._tell(Report(job.number, "error", said=self._end(error)))

    def _end(self, error: Exception) -> str:
        """Ends a process that does not answer, or could not be started; returns what is to be said."""
        process, self._process = self._process, None
        if process is None or not isinstance(error, (EOFError, OSError)):
            traceback.print_exc()
            return f"The process that samples cannot work: {error}"[:1000]
        process.join(5)
        if process.is_alive():  # it would be sent the next job, too
            process.kill()
            process.join(5)
        return _GONE.format(process.exitcode)

    def _tell(self, report: Report) -> None:
        with self._lock:
            wanted = self._now is not None and self._now[1].number == report.number
            answer = self._now[2] if self._now is not None and wanted else None
        if answer is None or report.what == "stopped":
            return
        try:
            answer(report)
        except Exception:  # of one tab, while others wait
            traceback.print_exc()

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._stopped), daemon=True)
        process.start()
        theirs.close()
        self._pipe, self._process = ours, process  # only what has started can be ended
        if self._closed:
            process.terminate()


# In the process -------------------------------------------------------------------------------------------


def _work(pipe: Any, stopped: Any) -> None:
    """Does jobs until the pipe is closed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the server, which ends this
    with contextlib.suppress(OSError):
        os.nice(5)  # the page answers first
    kept: dict[str, Any] = {}
    with contextlib.suppress(EOFError, OSError), open(os.devnull, "w") as silence:
        while True:
            job = pipe.recv()
            started = time.monotonic()
            with contextlib.redirect_stdout(silence):
                report = _answer(job, pipe, stopped, kept)
            pipe.send(report._replace(seconds=time.monotonic() - started))


def _answer(job: Job, pipe: Any, stopped: Any, kept: dict[str, Any]) -> Report:
    """The last report of a job."""

    def show(what: str, share: float) -> None:
        if stopped.value >= job.number:
            raise Stopped
        pipe.send(Report(job.number, what, share))

    try:
        return Report(job.number, "video", 1.0, video=_make(job, show, kept))
    except Stopped:
        return Report(job.number, "stopped")
    except InputError as error:
        return Report(job.number, "error", said=str(error))
    except Exception as error:
        mistake = of_a_disk(error) if isinstance(error, OSError) else None
        said = str(mistake) if mistake else f"{type(error).__name__}: {error}"[:1000]
        return Report(job.number, "error", said=said)


def _make(job: Job, show: Callable[[str, float], None], kept: dict[str, Any]) -> np.ndarray:
    """The video uint8 [F, H, W, 3] of a job, by the functions of sample.py."""
    from stp_jax.media import writing
    from stp_jax.rerender import runs
    from stp_jax.rerender.flags import parse_flags
    from stp_jax.rerender.takes import refuse_idle_flags

    show("reading", 0.0)
    flags = parse_flags(list(job.words))
    notes, takes = runs.notes_of(flags)
    refuse_idle_flags(flags, takes, notes)
    runs.set_defaults(flags, takes)
    plan = runs.plan(flags, notes, takes)
    show("loading the model", 0.0)
    if "model" not in kept:
        kept["model"] = runs.load_model(flags, notes, deep=runs.is_deep(flags))
        kept["speed"] = kept["model"].speed
    model = kept["model"]
    model.speed = _draft(model, takes.flow_map) if job.draft else kept["speed"]
    if job.folder is None:
        result = runs.rerender(model, plan.request, flags, show)
        return result if result.dtype == np.uint8 else writing.to_8_bits(result, truncated=model.official)
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return runs.make(folder, model, plan, flags, show)


def _draft(model: Rerenderer, flow_map: bool) -> Any:
    """The knobs of `--speed draft`, but for attention, which is compiled into the model once."""
    from stp_jax.rerender.speed import PRESETS, for_model

    knobs, _ = for_model(PRESETS["draft"], guidance=model.guidance, flow_map=flow_map)
    return knobs._replace(attention=model.speed.attention)
