"""Names of topologies. Imports no JAX: what a topology needs is set before JAX is imported."""

from __future__ import annotations

import re

# Environment variables that stand for what the compiler would ask a machine of a pod.
NO_POD = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def gpus_of(topology: str) -> int:
    """The number of GPUs in a name such as `gpu:8`; 0 for TPUs."""
    match = re.fullmatch(r"gpu:(\d+)", topology)
    return int(match[1]) if match else 0
