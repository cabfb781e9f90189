"""All tests run on the CPU, as eight simulated devices: sharded code can be compared with unsharded."""

import atexit
import gc
import os
import shutil
import tempfile

from tests.environment import xla_flags

gc.disable()  # until all modules are imported, which make many objects that stay

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=8)}"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # which line an operation is of: a tenth of compiling

# Many tests compile what others have compiled, in processes of their own, too.
if "PYTEST_XDIST_WORKER" not in os.environ:  # which works in what the process that started it made
    cache = tempfile.mkdtemp(prefix="stp_jax_tests_")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# Threads of XLA's pool: with fewer than collectives at a time these wait for each other for ever.
os.environ.setdefault("NPROC", "32")

if os.environ.get("STP_REQUIRE_COMPARISONS"):  # elsewhere the tests that need them are skipped
    import diffusers  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401


def pytest_collection_finish():
    gc.freeze()  # what the modules imported by now hold: looking through it takes 5 % of the time
    gc.set_threshold(50_000, 20, 50)  # tracing and compiling make many objects and few cycles
    gc.enable()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "training" not in item.path.parts)  # the longest first
