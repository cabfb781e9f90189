"""Counted operations against closed forms; nothing is compiled."""

import jax
import jax.numpy as jnp

from stp_jax.models.flop import traced_flop


def test_products_convolutions_and_loops_are_counted():
    def work(x, kernel, picture):
        x = jax.lax.scan(lambda x, _: (x @ kernel, None), x, length=3)[0]
        conv = jax.lax.conv_general_dilated(picture, jnp.ones((3, 3, 4, 6)), (2, 2), "SAME",
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
        return jnp.sin(x), conv, jax.jit(jnp.dot)(x[0], x[1])

    shapes = [(8, 5), (5, 5), (1, 10, 12, 4)]
    traced = jax.jit(work).trace(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    products, convolution, dot = 3 * 8 * 5 * 5, 5 * 6 * 6 * 3 * 3 * 4, 5
    assert traced_flop(traced.jaxpr) == 2 * (products + convolution + dot)
