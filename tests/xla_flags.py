"""How XLA compiles in tests: tiny models run for milliseconds and compile for seconds."""

FAST_COMPILATION = " ".join(
    [
        "--xla_backend_optimization_level=0",  # none of LLVM's optimisations
        "--xla_cpu_use_fusion_emitters=false",  # the older ones compile twice as fast
        "--xla_cpu_parallel_codegen_split_count=1",  # each part costs; the cores have other tests to run
    ]
)


def xla_flags(devices: int) -> str:
    """The value of XLA_FLAGS for a process of tests with this many simulated devices."""
    return f"--xla_force_host_platform_device_count={devices} {FAST_COMPILATION}"
