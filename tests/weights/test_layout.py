"""The machinery of tables: forms, lazy reading in parts, complaints, writing."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax.devices.sharding import make_mesh, parameter_shardings
from stp_jax.errors import InputError
from stp_jax.weights.layouts import table as layout
from stp_jax.weights.layouts.table import Rule
from tests.stored_tensors import normal

RULES = [
    Rule("blocks.kernel", "block.{n}.weight", layout.WEIGHT, pieces=3),
    Rule("table", "table#{n}", pieces=2, stacked=False),
    Rule("scale", "norm.gamma", layout.trailing_ones(3)),
    Rule("modulation", "modulation", layout.LEADING_ONE),
]


@pytest.fixture
def stored():
    return {
        **{f"block.{n}.weight": normal(n, 6, 16) for n in range(3)},
        "table#0": normal(3, 3, 4),
        "table#1": normal(4, 2, 4),
        "norm.gamma": normal(5, 8, 1, 1, 1),
        "modulation": normal(6, 1, 2, 4),
    }


@pytest.fixture
def ours(stored):
    return {
        "blocks.kernel": np.stack([stored[f"block.{n}.weight"].T for n in range(3)]),
        "table": np.concatenate([stored["table#0"], stored["table#1"]]),
        "scale": stored["norm.gamma"].reshape(8),
        "modulation": stored["modulation"][0],
    }


def like(ours, dtype="float32"):
    return {name: jax.ShapeDtypeStruct(array.shape, np.dtype(dtype)) for name, array in ours.items()}


@pytest.mark.parametrize(
    "form, shape",
    [
        (layout.SAME, (3, 4)),
        (layout.WEIGHT, (3, 4)),
        (layout.WEIGHT, (3, 4, 5, 2, 1)),
        (layout.LEADING_ONE, (1, 6, 4)),
        (layout.trailing_ones(2), (7, 1, 1)),
        (layout.patches(2), (5, 3, 1, 2, 2)),
    ],
)
def test_every_form_goes_both_ways_without_a_change(form, shape):
    stored = normal(0, *shape)
    np.testing.assert_array_equal(form.to_theirs(np.array(form.to_ours(stored))), stored)


def test_weights_compute_what_the_stored_ones_do():
    """A Linear is `x @ W.T`; a patch embedding is a sum over channels, rows and columns of its patch."""
    linear, conv = normal(0, 5, 3), normal(1, 5, 3, 1, 2, 2)
    x, patch = normal(2, 3), normal(3, 2, 2, 3)  # rows, columns, channels
    np.testing.assert_allclose(x @ layout.WEIGHT.to_ours(linear), linear @ x, atol=1e-6)
    expected = np.einsum("dcpq,pqc->d", conv[:, :, 0], patch)
    np.testing.assert_allclose(patch.reshape(-1) @ layout.patches(2).to_ours(conv), expected, atol=1e-5)


def test_parameters_reach_their_devices_in_parts(stored, ours):
    mesh = make_mesh(data=2, fsdp=4)
    shardings = {
        "blocks.kernel": NamedSharding(mesh, P(None, "fsdp")),
        "table": NamedSharding(mesh, P(None, "fsdp")),
        "scale": NamedSharding(mesh, P("fsdp")),
        "modulation": NamedSharding(mesh, P("data", "fsdp")),
    }
    read = layout.read_parameters(RULES, stored, like(ours), shardings, "there")
    for name, array in ours.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].sharding == shardings[name]


def test_a_split_along_stacked_and_joined_tensors_reads_the_right_ones(stored, ours):
    lazy = layout.lazy_parameters(RULES, stored)
    for name in ("blocks.kernel", "table"):
        rest = (slice(None),) * (ours[name].ndim - 1)
        for start in range(len(ours[name])):
            for stop in range(start, len(ours[name]) + 1):
                part = lazy[name].read((slice(start, stop), *rest))
                np.testing.assert_array_equal(part, ours[name][start:stop])


def test_values_are_cast_to_what_is_asked_for(stored, ours):
    mesh = make_mesh()
    wanted = like(ours, jax.numpy.bfloat16)
    read = layout.read_parameters(RULES, stored, wanted, parameter_shardings(wanted, mesh), "there")
    for name, array in ours.items():
        np.testing.assert_array_equal(read[name], jax.numpy.asarray(array).astype("bfloat16"))


@pytest.mark.parametrize("source", ["numpy", "jax", "lazy"])
def test_writing_is_the_inverse_of_reading(stored, ours, source):
    parameters = {
        "numpy": ours,
        "jax": jax.tree.map(jax.numpy.asarray, ours),
        "lazy": layout.lazy_parameters(RULES, stored),
    }[source]
    written = dict(layout.write_tensors(RULES, parameters))
    assert written.keys() == stored.keys()
    for name, array in stored.items():
        assert written[name].flags.c_contiguous
        np.testing.assert_array_equal(written[name], array)


class Unreadable:
    """A tensor that has a shape and a type but must not be touched."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape):
        self.shape = shape


def test_tensors_that_do_not_fit_are_all_named_before_one_is_read(stored, ours):
    tensors = {name: Unreadable(array.shape) for name, array in stored.items()}
    del tensors["block.1.weight"]
    tensors["img_emb.weight"] = Unreadable((1,))
    tensors["norm.gamma"] = Unreadable((9, 1, 1, 1))
    with pytest.raises(InputError) as error:
        layout.read_parameters(RULES, tensors, like(ours), {}, "weights.pth")
    for words in (
        "weights.pth",
        "1 missing (block.1.weight)",
        "1 not known (img_emb.weight)",
        "norm.gamma [9, 1, 1, 1] instead of [8, 1, 1, 1]",
    ):
        assert words in str(error.value)


def test_a_long_list_of_names_is_cut(ours):
    with pytest.raises(
        InputError, match=r"7 missing \(block.0.weight, block.1.weight, block.2.weight, \.\.\.\)"
    ):
        layout.check(RULES, {}, like(ours), "there")


def test_parameters_without_a_rule_are_left_out_only_where_allowed(stored, ours):
    wanted = like(ours | {"camera.kernel": np.zeros((2, 3))})
    shardings = parameter_shardings(wanted, make_mesh())
    with pytest.raises(InputError, match=r"missing \(camera.kernel\)"):
        layout.read_parameters(RULES, stored, wanted, shardings, "there")
    read = layout.read_parameters(
        RULES, stored, wanted, shardings, "there", lambda name: name.startswith("camera")
    )
    assert read.keys() == ours.keys()
