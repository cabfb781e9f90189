"""The environment of tests and of the processes that they start."""

import os
from importlib.metadata import version
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Tiny models run for milliseconds and compile for seconds.
FAST_COMPILATION = [
    "--xla_backend_optimization_level=0",  # none of LLVM's optimisations
    "--xla_cpu_parallel_codegen_split_count=1",  # each part costs; the cores have other tests to run
]
if version("jaxlib").startswith("0.10."):  # later ones end at a flag that they do not know
    FAST_COMPILATION.append("--xla_cpu_use_fusion_emitters=false")  # the older ones compile twice as fast


def xla_flags(devices: int) -> str:
    """The value of XLA_FLAGS for a process of tests with this many simulated devices."""
    return " ".join([f"--xla_force_host_platform_device_count={devices}", *FAST_COMPILATION])


def environment(devices: int) -> dict[str, str]:
    """Of a process that runs this repository's code with this many simulated devices, and without PyTorch."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS / 'without_torch'}",
        "XLA_FLAGS": xla_flags(devices),
    }
