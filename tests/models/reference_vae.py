"""The VAE in float64 numpy, working as the official one: in pieces, with a cache per convolution."""

import numpy as np


class Reference:
    """One pass over a video that arrives in pieces: the first frame, then groups of frames."""

    def __init__(self, params):
        self.params, self.seen = params, {}

    def conv(self, name, x, stride=1):
        """Any convolution without padding, [B, F, H, W, C], of a kernel [(F,) H, W, in, out]."""
        kernel = self.params[name + ".kernel"]
        if kernel.ndim == 4:
            kernel = kernel[None]
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:3], axis=(1, 2, 3))
        y = np.einsum("bthwcijk,ijkco->bthwo", windows, kernel) + self.params[name + ".bias"]
        steps = stride if isinstance(stride, tuple) else (stride,) * 3
        return y[:, :: steps[0], :: steps[1], :: steps[2]]

    def causal(self, name, x):
        pad = self.params[name + ".kernel"].shape[1] // 2
        past = self.seen.get(name, np.zeros_like(x[:, :1].repeat(2, axis=1)))
        x = np.concatenate([past, x], axis=1)
        self.seen[name] = x[:, -2:]
        return self.conv(name, np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0))))

    def norm(self, name, x):
        length = np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        return x / length * np.sqrt(x.shape[-1]) * self.params[name + ".gamma"]

    def norm_silu(self, name, x):
        y = self.norm(name, x)
        return y / (1 + np.exp(-y))

    def residual(self, name, x):
        y = self.causal(name + ".conv1", self.norm_silu(name + ".norm1", x))
        y = self.causal(name + ".conv2", self.norm_silu(name + ".norm2", y))
        return y + (self.conv(name + ".shortcut", x) if name + ".shortcut.kernel" in self.params else x)

    def attention(self, name, x):
        q, k, v = np.split(self.conv(name + ".to_qkv", self.norm(name + ".norm", x)), 3, axis=-1)
        out = np.zeros_like(x)
        for b, f in np.ndindex(x.shape[:2]):
            query, key, value = (a[b, f].reshape(-1, x.shape[-1]) for a in (q, k, v))
            weights = np.exp(query @ key.T / np.sqrt(x.shape[-1]))
            weights /= weights.sum(axis=1, keepdims=True)
            out[b, f] = (weights @ value).reshape(x.shape[2:])
        return x + self.conv(name + ".proj", out)

    def downsample(self, name, x):
        padded = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
        x = self.conv(name + ".conv", padded, stride=(1, 2, 2))
        if name + ".time_conv.kernel" in self.params:
            previous, self.seen[name] = self.seen.get(name), x[:, -1:]
            if previous is not None:
                joined = np.concatenate([previous, x], axis=1)
                x = self.conv(name + ".time_conv", joined, stride=(2, 1, 1))
        return x

    def upsample(self, name, x):
        if name + ".time_conv.kernel" in self.params:
            if name in self.seen:
                y = self.causal(name + ".time_conv", x)
                channels = x.shape[-1]
                x = np.zeros((x.shape[0], 2 * x.shape[1], *x.shape[2:]))
                x[:, 0::2], x[:, 1::2] = y[..., :channels], y[..., channels:]
            self.seen[name] = True
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        return self.conv(name + ".conv", np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))))

    def any(self, name, x):
        """The layer of that name, whatever it is."""
        if name + ".norm1.gamma" in self.params:
            return self.residual(name, x)
        if name + ".to_qkv.kernel" in self.params:
            return self.attention(name, x)
        kernel = self.params[name + ".conv.kernel"]
        return (self.downsample if kernel.shape[-2] == kernel.shape[-1] else self.upsample)(name, x)

    def coder(self, name, x):
        x = self.causal(name + ".conv1", x)
        stages = {"encoder": ("downsamples", "middle"), "decoder": ("middle", "upsamples")}[name]
        for stage in stages:
            prefix = f"{name}.{stage}."
            count = 1 + max(int(key.split(".")[2]) for key in self.params if key.startswith(prefix))
            for index in range(count):
                x = self.any(prefix + str(index), x)
        return self.causal(name + ".head_conv", self.norm_silu(name + ".head_norm", x))

    def encode(self, video):
        groups = [video[:, :1]] + [video[:, i : i + 4] for i in range(1, video.shape[1], 4)]
        x = np.concatenate([self.coder("encoder", group) for group in groups], axis=1)
        return np.split(self.conv("conv1", x), 2, axis=-1)

    def decode(self, z):
        x = self.conv("conv2", z)
        return np.concatenate([self.coder("decoder", x[:, i : i + 1]) for i in range(x.shape[1])], axis=1)
