"""Where arrays live: one mesh of four axes and one table from logical names to those axes.

The same code runs on one CPU (a 1 x 1 x 1 x 1 mesh) and on a pod.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax.errors import InputError

AXES = ("data", "fsdp", "sequence", "tensor")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Logical axis name -> mesh axes."""

    batch: tuple[str, ...] = ("data", "fsdp")
    tokens: tuple[str, ...] = ("sequence",)
    parameters: tuple[str, ...] = ("fsdp",)

    def __post_init__(self):
        if set(self.batch) & set(self.tokens):
            raise ValueError(f"batch {self.batch} and tokens {self.tokens} of one array share a mesh axis")

    def spec(self, *names: str | None) -> P:
        """The partition of an array whose dimensions have these logical names (`None`: not split)."""
        return P(*(getattr(self, name) if name else None for name in names))


RULES = Rules()


def make_mesh(data: int = -1, fsdp: int = 1, sequence: int = 1, tensor: int = 1, *, devices=None) -> Mesh:
    """A mesh of the given axis sizes over all devices; one size may be -1: whatever is left.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, sequence, tensor]
    shown = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        sizes[sizes.index(-1)] = len(devices) // known if known else 0
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise InputError(
            f"config.mesh ({shown}) does not fill the {len(devices)} devices; use -1 for one axis."
        )
    return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 4)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Asks for the layout of an activation inside jit; does nothing where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(mesh.axis_sizes) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, RULES.spec(*names))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading dimension split over the batch axes, everything else whole."""
    return NamedSharding(mesh, RULES.spec("batch"))


def parameter_shardings(tree, mesh: Mesh):
    """One sharding per leaf: its largest dimension that divides is split over the parameter axes.

    Small leaves are not split.
    """
    size = math.prod(mesh.shape[axis] for axis in RULES.parameters)

    def one(leaf) -> NamedSharding:
        spec: list = [None] * leaf.ndim
        divisible = [d for d in range(leaf.ndim) if leaf.shape[d] % size == 0]
        if size > 1 and leaf.size >= 2**12 and divisible:
            spec[max(divisible, key=lambda d: leaf.shape[d])] = RULES.parameters
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(one, tree)
