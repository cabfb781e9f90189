"""How a command ends: mistakes of the user, and Ctrl-C from its first moment on."""

import subprocess
import sys

import pytest

BEGIN = "import os, signal\nfrom stp_jax.errors import InputError, exit_on_input_error, starting\n"
# The tests themselves may run in the background of a shell, where Ctrl-C is ignored.
BEGIN += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
CTRL_C = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    "program, status, message",
    [
        # As a library's import that turns every exception into another would.
        (f"with starting():\n try: {CTRL_C}\n except BaseException: pass", 130, "Stopped.\n"),
        (f"with starting(): pass\n@exit_on_input_error\ndef main(): {CTRL_C}\nmain()", 130, "Stopped.\n"),
        ("@exit_on_input_error\ndef main(): raise InputError('no file')\nmain()", 2, "error: no file\n"),
        (
            "@exit_on_input_error\ndef main(): os.makedirs('/dev/null', exist_ok=True)\nmain()",
            2,
            "error: /dev/null: File exists. Choose a file or folder that you may use.\n",
        ),
        (
            "import sys\nsys.executable = 'PYTHON'\nwith starting(): import no_such_library.part",
            2,
            "error: PYTHON lacks the module no_such_library.\nInstall this project for it with pip install "
            "-e . and the extras that README.md names for this command, or use the Python that has it.\n",
        ),
        # The background processes of a shell ignore Ctrl-C.
        (f"signal.signal(2, signal.SIG_IGN)\nwith starting(): {CTRL_C}", 0, ""),
    ],
)  # fmt: skip
def test_a_command_ends_with_one_line(program, status, message):
    done = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (status, message)


def test_what_a_command_imports_is_never_searched_for_garbage():
    program = "import gc\nwith starting():\n import decimal\n assert not gc.isenabled()\n"
    program += "assert gc.isenabled() and gc.get_freeze_count() > 1000 > len(gc.get_objects())"
    subprocess.run([sys.executable, "-c", BEGIN + program], check=True)


def test_a_reader_that_goes_away_ends_a_command_in_silence():
    program = BEGIN + "@exit_on_input_error\ndef main(): print('line\\n' * 100_000)\nmain()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
