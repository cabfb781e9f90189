"""All tests run on the CPU, as eight simulated devices: sharded code can be compared with unsharded."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tiny models run for milliseconds and compile for seconds: without LLVM's optimisations the suite is faster.
flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"

# Threads of XLA's pool: with fewer than collectives at a time these wait for each other for ever.
os.environ.setdefault("NPROC", "32")

if os.environ.get("STP_REQUIRE_COMPARISONS"):  # elsewhere the tests that need them are skipped
    import diffusers  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
