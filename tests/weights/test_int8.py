"""Weights in 8 bits with scales, against the definition in float64."""

import numpy as np
import pytest

from stp_jax.errors import InputError
from stp_jax.weights import int8, native, recognition
from stp_jax.weights.layouts.table import lazy_parameters
from tests.weights.test_recognition import TINY, write_ours

rng = np.random.default_rng(0)
# As blocks, a patch embedding, a convolution, and what is not worth its scales.
TENSORS = {
    "blocks.ffn_in.kernel": rng.normal(size=(4, 48, 64)) * np.exp(rng.normal(size=(4, 1, 64))),
    "patch.kernel": rng.normal(size=(64, 128)),
    "conv.kernel": rng.normal(size=(3, 3, 3, 8, 32)),
    "conv.bias": rng.normal(size=(8192,)),
    "small.kernel": rng.normal(size=(16, 16)),
}


def expected_scales(array):
    """The largest magnitude of each output channel, and of each layer or tap, as 127."""
    if array.ndim == 2:
        return np.array([[max(abs(array[:, c])) / 127 for c in range(array.shape[1])]])
    channels = range(array.shape[-1])
    scales = [[abs(one[..., c]).max() / 127 for c in channels] for one in array]
    return np.reshape(scales, (len(array), *(1,) * (array.ndim - 2), array.shape[-1]))


def test_values_differ_by_half_a_step_of_their_channel(tmp_path):
    native.save_weights(tmp_path, "dit", TENSORS, {}, dtype="int8", part_bytes=6000)  # kernels in pieces
    read, (index, stored) = native.read_weights(tmp_path, "dit"), native.open_model(tmp_path, "dit")
    assert any("#" in name for name in stored) and len(index["files"]) > 3
    assert read.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        if array.ndim < 2 or array.size < int8.LEAST:
            assert np.array_equal(read[name], array.astype(np.float16))
            continue
        # The pieces of a matrix have scales of their own, which are not larger.
        assert (abs(read[name] - array) <= expected_scales(array) * (0.5 + 1e-5)).all()


def test_a_part_of_an_encoded_tensor_is_that_part_of_the_whole(tmp_path):
    parameters = write_ours(tmp_path / "float", "dit", TINY["dit"])
    config = native.read_index(tmp_path / "float", "dit")["config"]
    native.save_weights(tmp_path, "dit", parameters, config, dtype="int8", part_bytes=9000)
    found = recognition.recognise(tmp_path, "dit")
    assert not recognition.remarks(found)
    whole = native.read_weights(tmp_path, "dit")
    lazy = lazy_parameters(found.rules, found.tensors)
    encoded = [name for name, array in parameters.items() if array.ndim > 1 and array.size >= int8.LEAST]
    assert encoded
    for name in encoded:
        part = (slice(1, None), *(slice(0, 3),) * (parameters[name].ndim - 1))
        assert np.array_equal(lazy[name].read(part), whole[name][part])


@pytest.mark.parametrize("damage", ["gone", "shape", "type"])
def test_scales_that_do_not_fit_are_an_error(damage):
    stored = int8.encode("x", rng.normal(size=(80, 64)))
    if damage == "gone":
        del stored["x"]
    elif damage == "shape":
        stored["x" + int8.SCALE] = stored["x" + int8.SCALE].T
    else:
        stored["x" + int8.SCALE] = stored["x" + int8.SCALE].astype(np.float64)
    with pytest.raises(InputError, match="weights/dit.json: 'x.int8_scale' does not fit its tensor"):
        int8.decoded(stored, "weights/dit.json")


def test_a_channel_of_zeros_stays_zero():
    array = rng.normal(size=(80, 64))
    array[:, 5] = 0
    decoded = np.asarray(int8.decoded(int8.encode("x", array), "here")["x"])
    assert not decoded[:, 5].any() and decoded[:, 4].any()
