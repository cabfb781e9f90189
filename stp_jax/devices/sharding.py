"""The layout of arrays on devices: one mesh of four axes, and one table of rules from names to these axes.

The same code runs on one CPU (a 1 x 1 x 1 x 1 mesh) and on a pod.

- `data`: copies of the parameters, each with its share of the batch;
- `fsdp`: a share of the batch, and of the parameters, which are gathered layer by layer;
- `sequence`: a share of the tokens of each video, see `stp_jax.models.attention`, and of the parameters, too;
- `tensor`: a share of the heads and of the feed-forward width.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax.errors import InputError

AXES = ("data", "fsdp", "sequence", "tensor")
# The number of tokens on a device is a multiple of this. In 16 bits a row of, say, 16,380 tokens is not a
# multiple of the 16 bytes that fast kernels of NVIDIA GPUs need: gradients of parameters took 3 times as
# long.
TOKEN_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Rules:
    """Logical name -> mesh axes; and which dimension of a parameter is split over `tensor`.

    Attributes:
      batch, tokens, heads, width: dimensions of activations.
      parameters: axes over which the largest dimension that divides is split; if none does, over the first of
        them alone.
      tensor: pattern of parameters' names -> dimension; -1 is a layer's outputs, -2 its inputs.
    """

    batch: tuple[str, ...] = ("data", "fsdp")
    tokens: tuple[str, ...] = ("sequence",)
    heads: tuple[str, ...] = ("tensor",)
    width: tuple[str, ...] = ("tensor",)
    parameters: tuple[str, ...] = ("fsdp", "sequence")
    tensor: tuple[tuple[str, int], ...] = (
        (r"blocks\.(cross_attn\.)?[qkv]\.(kernel|bias|lora_b)", -1),
        (r"blocks\.(cross_attn\.)?norm_[qk]\.scale", -1),
        (r"blocks\.(cross_attn\.)?o\.(kernel|lora_a)", -2),
        (r"blocks\.ffn_(in|gate)\.(kernel|bias|lora_b)", -1),
        (r"blocks\.ffn_out\.(kernel|lora_a)", -2),
    )

    def __post_init__(self):
        of_activations = [axis for name in ("batch", "tokens", "heads") for axis in getattr(self, name)]
        if len(set(of_activations)) < len(of_activations):
            raise ValueError(
                f"batch {self.batch}, tokens {self.tokens}, heads {self.heads} of one array share a mesh axis"
            )

    def spec(self, *names: str | None) -> P:
        """The partition of an array whose dimensions have these logical names (`None`: not split)."""
        return P(*(getattr(self, name) if name else None for name in names))


RULES = Rules()


def make_mesh(data: int = -1, fsdp: int = 1, sequence: int = 1, tensor: int = 1, *, devices=None) -> Mesh:
    """A mesh of the given axis sizes over all devices; one size may be -1: as many as remain.

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
    # On TPUs this makes neighbours along an axis neighbours on the chips' links.
    arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * 4)


def size_of(axes: tuple[str, ...], mesh: Any) -> int:
    """The number of parts into which these axes of a mesh split a dimension."""
    return math.prod(mesh.shape[axis] for axis in axes)


def batch_axes(videos: int, mesh: Any) -> tuple[str, ...] | None:
    """Axes over which videos are split. None if they do not divide: then all devices compute all videos."""
    return None if videos % size_of(RULES.batch, mesh) else RULES.batch


def padded_tokens(tokens: int) -> int:
    """The number of a video's tokens with padding, so that all devices that share them have equally many."""
    mesh = jax.sharding.get_abstract_mesh()
    multiple = TOKEN_MULTIPLE * (1 if mesh.empty else size_of(RULES.tokens, mesh))
    return math.ceil(tokens / multiple) * multiple


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Asks for the layout of an activation inside jit; does nothing where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = RULES.spec(*names)
    if names[0] == "batch":
        spec = P(batch_axes(x.shape[0], mesh), *spec[1:])
    return jax.lax.with_sharding_constraint(x, spec)


def constrain_columns(x: jax.Array, cell: int = 1) -> jax.Array:
    """Asks for videos or latents `[B, F, H, W, C]` split over all devices, for layers with local receptive
    fields: by videos if they divide, and by columns, or else rows, if whole cells of pixels do.

    Does nothing where no mesh is set.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec: list = [batch_axes(x.shape[0], mesh), None, None, None, None]
    for axes in (RULES.tokens,) if spec[0] else (RULES.batch + RULES.tokens, RULES.tokens):
        fitting = [d for d in (3, 2) if x.shape[d] // cell % size_of(axes, mesh) == 0]
        if fitting:
            spec[fitting[0]] = axes
            break
    return jax.lax.with_sharding_constraint(x, P(*spec))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading dimension split over the batch axes, everything else whole."""
    return NamedSharding(mesh, RULES.spec("batch"))


def host_rows(mesh: Mesh, batch_size: int, process: int | None = None) -> list[int]:
    """The rows of each batch that a process reads: those that its devices hold, ascending.

    Processes whose devices differ only along `sequence` or `tensor` hold and read the same ones.
    """
    process = jax.process_index() if process is None else process
    shards = size_of(RULES.batch, mesh)
    devices, size = mesh.devices.reshape(shards, -1), batch_size // shards
    own = [i for i in range(shards) if any(d.process_index == process for d in devices[i])]
    return [row for i in own for row in range(i * size, (i + 1) * size)]


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh, batch_size: int) -> dict[str, jax.Array]:
    """A batch of all hosts on their devices, from this host's rows of it (`host_rows`)."""
    sharding = batch_sharding(mesh)
    places = {row: place for place, row in enumerate(host_rows(mesh, batch_size))}

    def put(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return array[places[start] : places[start] + stop - start]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, part)

    return {name: put(array) for name, array in batch.items()}


def _tensor_dimension(name: str, leaf, tensor: int) -> int | None:
    """The dimension of the parameter of this dotted name that is split over `tensor`, if any."""
    for pattern, dimension in RULES.tensor:
        if re.fullmatch(pattern, name) and leaf.ndim >= -dimension and leaf.shape[dimension] % tensor == 0:
            return dimension
    return None


def _name(path, prefix: str | None) -> str:
    """The dotted name of a parameter: the last dictionary key on the way to it, or all after a prefix."""
    keys = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
    return "".join(keys[-1:]) if prefix is None else prefix + ".".join(keys)


def parameter_shardings(tree, mesh: Mesh, prefix: str | None = None):
    """One sharding per leaf of a tree whose dictionaries have parameters' names as keys.

    With a `prefix`, a name is that and the keys of nested dictionaries, joined by dots.

    What the rules name is split over `tensor`; the largest other dimension that divides over the axes of
    `Rules.parameters`. Small leaves are not split.
    """
    tensor = mesh.shape["tensor"]

    def one(path, leaf) -> NamedSharding:
        spec: list = [None] * leaf.ndim
        dimension = _tensor_dimension(_name(path, prefix), leaf, tensor) if tensor > 1 else None
        if dimension is not None:
            spec[dimension] = "tensor"
        for axes in (RULES.parameters, RULES.parameters[:1]) if leaf.size >= 2**12 else ():
            parts = size_of(axes, mesh)
            divisible = [d for d in range(leaf.ndim) if leaf.shape[d] % parts == 0 and spec[d] is None]
            if divisible:
                spec[max(divisible, key=lambda d: leaf.shape[d])] = axes
                break
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(one, tree)


def constrain_parameters(tree, prefix: str | None = None):
    """Asks for the layout of `parameter_shardings` inside jit; does nothing where no mesh is set."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, parameter_shardings(tree, mesh, prefix))


def cast_kernels(tree, dtype: jax.typing.DTypeLike):
    """Parameters with kernels and LoRA's matrices, which multiply activations, cast to this dtype."""

    def one(path, leaf):
        return leaf.astype(dtype) if _name(path, None) in ("kernel", "lora_a", "lora_b") else leaf

    return jax.tree_util.tree_map_with_path(one, tree)


def gathered(tree, prefix: str = ""):
    """Parameters for use inside jit: whole, apart from those that are split over `tensor`.

    Without this the compiler may split an activation as the parameter is split, and exchange the activation,
    which is larger.

    Names are as in `parameter_shardings`.
    """
    mesh: Any = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree

    def one(path, leaf):
        spec: list = [None] * leaf.ndim
        dimension = _tensor_dimension(_name(path, prefix), leaf, mesh.shape["tensor"])
        if dimension is not None:
            spec[dimension] = "tensor"
        return jax.lax.with_sharding_constraint(leaf, P(*spec))

    return jax.tree_util.tree_map_with_path(one, tree)
