"""Feeds mutated files to readers in a child process, and watches its time and its memory.

The child says what it is about to read before it reads it. Whatever ends or stops it is then known: an
exception other than `InputError`, a crash, a hang, memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import pkgutil
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.inputs import Reader, Seed, make_input

SECONDS = 5.0  # of the processor for one input
PATIENCE = 6  # times as long it may wait, for a busy machine or for ever
MEMORY = 10**9  # bytes above what the child had before it
START_SECONDS = 300.0  # for imports and seeds
PACKAGE = "tests.fuzz.readers"


@dataclasses.dataclass(frozen=True)
class Failure:
    """An input that gave neither success nor an `InputError`."""

    reader: str
    number: int
    what: str


def find_readers(package: str = PACKAGE) -> dict[str, Reader]:
    """The readers in the `READERS` of all modules of a package (or of one module), by name."""
    found: dict[str, Reader] = {}
    root = importlib.import_module(package)
    names = [f"{package}.{info.name}" for info in pkgutil.iter_modules(getattr(root, "__path__", []))]
    for name in sorted(names) or [package]:
        for reader in importlib.import_module(name).READERS:
            assert reader.name not in found, f"two readers are named {reader.name}"
            found[reader.name] = reader
    return found


def run(
    counts: dict[str, tuple[int, int]],
    *,
    package: str = PACKAGE,
    seed: int = 0,
    seconds: float = SECONDS,
    report: Any = None,
) -> list[Failure]:
    """Runs inputs of readers in child processes, a new one after each failure that ends one.

    Args:
      counts: for each reader the range of its inputs' numbers.
      package: that has the readers.
      seed: of the run.
      seconds: for one input.
      report: called with (reader, inputs done) now and then.
    """
    failures: list[Failure] = []
    todo = [[name, low, high] for name, (low, high) in counts.items() if low < high]
    while todo:
        with _child(todo, package, seed) as child:
            failure = _watch(child, todo, seconds, failures, report)
        if failure is not None:
            failures.append(failure)
            todo[0][1] = failure.number + 1
        todo = [one for one in todo if one[1] < one[2]]
    return failures


@contextlib.contextmanager
def _child(todo: list[list[Any]], package: str, seed: int) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "tests.fuzz", "--child", json.dumps([todo, package, seed])]
    folder = tempfile.mkdtemp(prefix="stp_jax_fuzz_", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    environment = os.environ | {"TMPDIR": folder, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        child.errors = errors  # type: ignore[attr-defined]
        try:
            yield child
        finally:
            child.kill()
            child.wait()
            child.stdout.close()  # type: ignore[union-attr]
            shutil.rmtree(folder, ignore_errors=True)


def _watch(
    child: subprocess.Popen,
    todo: list[list[Any]],
    seconds: float,
    failures: list[Failure],
    report: Any,
) -> Failure | None:
    """Follows a child to its end; returns the failure that ended it, if one did."""
    assert child.stdout is not None
    output, buffered = child.stdout.fileno(), b""
    current: tuple[str, int] | None = None
    started = used = 0.0
    while True:
        ready, _, _ = select.select([output], [], [], seconds / 2 if current else START_SECONDS)
        if not ready:
            if current is None:
                raise RuntimeError("the child does not start")
            waited, worked = time.monotonic() - started, _processor_seconds(child.pid) - used
            if worked > seconds or waited > PATIENCE * seconds:
                return Failure(*current, f"hangs for more than {seconds:g} s")
            continue
        chunk = os.read(output, 65536)
        if not chunk:
            break
        started, used = time.monotonic(), _processor_seconds(child.pid)
        *lines, buffered = (buffered + chunk).split(b"\n")
        for line in lines:
            name, number, what = json.loads(line)
            if what == "seeds":
                current = None
            elif what is None:
                current = name, number
                while todo[0][0] != name:
                    todo.pop(0)
                todo[0][1] = number
                if report and number % 1000 == 0:
                    report(name, number)
            elif what == "end":
                todo.clear()
                return None
            else:
                failures.append(Failure(name, number, what))
    status = child.wait()
    if current is None:
        child.errors.seek(0)  # type: ignore[attr-defined]
        raise RuntimeError(f"the child does not start:\n{child.errors.read().decode()[-3000:]}")  # type: ignore[attr-defined]
    return Failure(*current, f"ends the process with status {status}")


def _processor_seconds(process: int) -> float:
    """What a process and its threads have used of the processor."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child_main(arguments: str) -> None:
    """What the child does: it writes lines of [reader, number, None, "seeds", "end" or a failure]."""
    todo, package, seed = json.loads(arguments)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout = io.StringIO()  # what a reader prints is nobody's

    def say(*what: Any) -> None:
        out.write(json.dumps(what) + "\n")

    readers = find_readers(package)
    for name, low, high in todo:
        say(name, low, "seeds")
        with Inputs(readers[name], seed) as inputs:
            inputs.warm_up()
            _limit_memory()
            for number in range(low, high):
                say(name, number, None)
                what = inputs.failure(number)
                if what is not None:
                    say(name, number, what)
    say("", 0, "end")


class Inputs:
    """The inputs of one reader, in a folder of their own while a `with` block runs."""

    def __init__(self, reader: Reader, run: int):
        self.reader, self._run = reader, run

    def __enter__(self) -> Inputs:
        self._folder = Path(tempfile.mkdtemp(prefix="stp_jax_fuzz_"))
        work = self._folder / "work"
        work.mkdir()
        self._seeds: Sequence[Seed] = list(self.reader.seeds(work))
        for place in range(len(self._seeds)):
            self._write(place)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, place: int) -> Path:
        folder = self._folder / str(place)
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in self._seeds[place].files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def warm_up(self) -> None:
        """Reads the seeds as they are, which must succeed; imports and compiles what that needs."""
        for place in range(len(self._seeds)):
            self.reader.read(self._folder / str(place))
            if self.reader.changes_files:
                self._write(place)

    def place(self, number: int) -> Path:
        """Writes an input; returns its folder."""
        place, content = make_input(self._seeds, self.reader.name, self._run, number)
        folder = self._write(place) if self.reader.changes_files else self._folder / str(place)
        file = folder / self._seeds[place].mutated
        file.unlink(missing_ok=True)  # a new file: an older one may still be mapped
        file.write_bytes(content)
        return folder

    def failure(self, number: int) -> str | None:
        """Reads an input; returns what is wrong with the reader, or None."""
        from stp_jax.errors import InputError

        folder = self.place(number)
        before, peak_before = _memory("VmRSS"), _memory("VmHWM")
        what = None
        try:
            self.reader.read(folder)
        except InputError as error:
            if _of_memory(error):
                what = f"took all of the memory allowed, then: {error}"
            elif not 0 < len(str(error)) < 2000 or str(error).count("\n") > 1:
                what = f"a message of {len(str(error))} characters: {str(error)[:200]}"
        except BaseException as error:  # which is what is looked for
            what = "".join(traceback.format_exception(error)[-3:]).strip()[-1500:]
        peak = _memory("VmHWM")
        if what is None and peak > peak_before and peak - before > MEMORY:
            what = f"takes {(peak - before) / 1e9:.1f} GB"
        return what


def _of_memory(error: BaseException | None) -> bool:
    """Whether an error was caused by one of memory, however it was dressed."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _memory(field: str) -> int:
    """Bytes: resident now (VmRSS), at most so far (VmHWM), or reserved (VmSize)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _limit_memory() -> None:
    """Lets allocations fail that would harm the machine; threads and mapped files reserve some, too."""
    limit = _memory("VmSize") + 3 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
