"""All commands: Ctrl-C while they import, and mistakes in flags, end with one line."""

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("stp_jax", "input_pipeline", "benchmarks", "launch")
IN_BLENDER = {"launch/blender_export_camera.py"}  # which has flags of its own
# Ctrl-C at the first import of what is neither Python's nor ours, or of the module named last; copy.py tries
# Jython's org.
INTERRUPTED = """
import os, runpy, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)
ours, target, module = sys.argv[1:]
known = sys.stdlib_module_names | set(ours.split())


class Finder:
    def find_spec(name, *_):
        if name == module or (not module and name.partition(".")[0] not in known):
            os.kill(os.getpid(), signal.SIGINT)


sys.meta_path.insert(0, Finder)
run = runpy.run_path if target.endswith(".py") else runpy.run_module
run(target, run_name="__main__")
"""


def commands() -> list[str]:
    """Every script as its path, and every module that can be run as its name."""
    files = [ROOT / "train.py", ROOT / "sample.py"]
    files += sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    found = []
    for path in files:
        if re.search(r"^if __name__ == .__main__.:", path.read_text(), re.MULTILINE):
            name = path.relative_to(ROOT).as_posix()
            if name in IN_BLENDER:
                continue
            is_module = name.startswith(("stp_jax/", "input_pipeline/"))
            found.append(
                name.removesuffix(".py").removesuffix("/__main__").replace("/", ".") if is_module else name
            )
    return found


def test_commands_are_found():
    assert {"train.py", "stp_jax.evaluate", "stp_jax.text", "input_pipeline.render"} <= set(commands())


# Of sample.py also when many modules are there already, of libraries that it imports late.
INTERRUPTS = [*((command, "") for command in commands()), ("sample.py", "filelock"), ("sample.py", "yaml")]


@pytest.mark.parametrize(("command", "module"), INTERRUPTS)
def test_ctrl_c_while_a_command_imports_is_one_line(command, module):
    ours = "org stp_jax input_pipeline launch benchmarks configs"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, ours, command, module],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.strip()) == (130, "Stopped.")


@pytest.mark.parametrize("command", commands())
def test_a_mistake_in_a_flag_is_one_line(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [command, "--no_such_flag"])
    with pytest.raises(SystemExit) as ended:
        if command.endswith(".py"):
            runpy.run_path(str(ROOT / command), run_name="command")["main"]()
        else:
            name = re.search(r'run_command\("(.*)"\)', _source(command))
            importlib.import_module(name[1] if name else command).main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and re.fullmatch("error: .*(\n.*)?\n", error)


def _source(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text()
