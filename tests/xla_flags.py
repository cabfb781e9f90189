"""How XLA compiles in tests: tiny models run for milliseconds and compile for seconds."""

from importlib.metadata import version

FAST_COMPILATION = [
    "--xla_backend_optimization_level=0",  # none of LLVM's optimisations
    "--xla_cpu_parallel_codegen_split_count=1",  # each part costs; the cores have other tests to run
]
if version("jaxlib").startswith("0.10."):  # later ones end at a flag that they do not know
    FAST_COMPILATION.append("--xla_cpu_use_fusion_emitters=false")  # the older ones compile twice as fast


def xla_flags(devices: int) -> str:
    """The value of XLA_FLAGS for a process of tests with this many simulated devices."""
    return " ".join([f"--xla_force_host_platform_device_count={devices}", *FAST_COMPILATION])
