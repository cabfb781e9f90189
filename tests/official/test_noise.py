"""PyTorch's noise without PyTorch: against recorded numbers, and live where PyTorch is installed."""

import numpy as np
import pytest

from stp_jax.official.noise import torch_randn

# torch.randn(shape, generator=torch.Generator().manual_seed(seed)) of PyTorch 2.13, every third number.
RECORDED = {
    (0, (2, 16)): [
        -1.1258398,
        -0.43387881,
        -0.31601277,
        -1.2633348,
        0.11984151,
        -0.24727815,
        0.56665063,
        -1.5550951,
        0.75018948,
        0.18347794,
        0.94629836,
    ],
    (12345, (19,)): [-1.4798077, 1.3174164, 0.43074253, -1.2619947, 0.20584559, -0.44502813, 0.74719644],
    (4294967295, (3, 11)): [
        -2.6642976,
        0.2283607,
        -1.2553997,
        -0.70967472,
        -2.5158842,
        0.14090961,
        0.77004033,
        -0.10301631,
        0.76317829,
        -1.1006033,
        -1.0488554,
    ],
}


@pytest.mark.parametrize(("seed", "shape"), RECORDED)
def test_equals_recorded_noise_of_pytorch(seed, shape):
    noise = torch_randn(seed, shape)
    assert noise.shape == shape and noise.dtype == np.float32
    np.testing.assert_allclose(noise.reshape(-1)[::3], RECORDED[seed, shape], rtol=0, atol=5e-7)


@pytest.mark.parametrize(
    ("seed", "shape"),
    [(0, (1, 16, 5, 12, 20)), (7, (16,)), (2**32 + 3, (5, 35)), (2**40, (31,)), (1, (4097,))],
)
def test_equals_pytorch(seed, shape):
    torch = pytest.importorskip("torch")
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_allclose(torch_randn(seed, shape), expected, rtol=0, atol=5e-7)


def test_is_normal():
    noise = torch_randn(3, (100_000,)).astype(np.float64)
    np.testing.assert_allclose([noise.mean(), noise.var(), (noise**4).mean()], [0, 1, 3], atol=0.05)


def test_too_few_numbers_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        torch_randn(0, (3, 5))
