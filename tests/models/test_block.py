"""Parts of a block that `test_dit` does not tell apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stp_jax.devices.sharding import make_mesh
from stp_jax.models.block import to_tokens
from stp_jax.models.config import DiTConfig


def test_frames_are_spread_over_their_tokens_alike_on_one_device_and_on_several():
    frames = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4, 3)), jnp.float32)
    expected = np.concatenate([np.repeat(frames, 7, axis=1), np.zeros((8, 4, 3))], axis=1)
    spread = jax.jit(lambda frames: to_tokens(frames, 28, 32))
    np.testing.assert_array_equal(spread(frames), expected)
    with jax.set_mesh(make_mesh(data=2, sequence=4)):
        split = jax.jit(lambda frames: to_tokens(frames, 28, 32))(frames)
    np.testing.assert_allclose(split, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": False}, "model.source is False"),
        ({"camera": "rays"}, "model.camera is 'rays'; choose one of plucker"),
        ({"memory": 2, "camera": "pose12"}, "model.memory needs model.camera plucker"),
        ({"dim": 10, "heads": 4}, "not divisible"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DiTConfig(**changes)
