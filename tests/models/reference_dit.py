"""A second reading of the DiT: loops and float64 numpy, written from the formulas, one example at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from stp_jax.models.config import DiTConfig

Array = np.ndarray


def predict(tensors: dict[str, Array], config: DiTConfig, x: dict[str, Array], sample: int) -> Array:
    """What a model predicts for one example of a batch.

    Args:
      tensors: parameters by dotted name, those of the blocks stacked.
      config: of the model.
      x: the batch: noisy, source, and perhaps memory [B, F', H, W, C]; timestep [B]; text [B, words, dim];
        and of each of these clips c2w [B, F, 4, 4], intrinsics [B, F, 4] and animation_time [B, F].
      sample: which example.

    Returns:
      The velocity, [F', H, W, C].
    """
    return _Reading(tensors, config, x, sample).velocity()


def silu(v: Array) -> Array:
    return v / (1 + np.exp(-v))


def gelu(v: Array) -> Array:
    return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))


def pixel_frames(latent_frame: int, clip: str) -> list[int]:
    """The four pixel frames of a latent frame; the first of a clip is alone, a memory has whole groups."""
    k = latent_frame
    if clip == "memory":
        return [4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3]
    return [0] * 4 if k == 0 else [4 * k - 3, 4 * k - 2, 4 * k - 1, 4 * k]


class _Reading:
    def __init__(self, tensors: dict[str, Array], config: DiTConfig, x: dict[str, Array], sample: int):
        self.config = config
        self.w = {name: value.astype(np.float64) for name, value in tensors.items()}
        self.x = {name: value[sample].astype(np.float64) for name, value in x.items()}
        self.clips = ("target", "source", "memory")[: 1 + config.source + ("memory" in x)]
        self.frames, height, self.width, self.channels = self.x["noisy"].shape
        self.rows, self.columns = height // config.patch, self.width // config.patch

    # --- parts that occur several times; `w` are the parameters of a block or of the whole model

    def dense(self, w: dict[str, Array], name: str, v: Array) -> Array:
        return v @ w[f"{name}.kernel"] + w[f"{name}.bias"]

    def mlp(self, w: dict[str, Array], name: str, v: Array, activation: Any = silu) -> Array:
        return self.dense(w, f"{name}.layer_out", activation(self.dense(w, f"{name}.layer_in", v)))

    def norm(self, v: Array) -> Array:
        centred = v - v.mean(-1, keepdims=True)
        return centred / np.sqrt(v.var(-1, keepdims=True) + self.config.eps)

    def rms(self, w: dict[str, Array], name: str, v: Array) -> Array:
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + self.config.eps) * w[f"{name}.scale"]

    def wave(self, t: float) -> Array:
        half = self.config.freq_dim // 2
        angles = t * 10000.0 ** (-np.arange(half) / half)
        return np.concatenate([np.cos(angles), np.sin(angles)])

    def attention(self, q: Array, k: Array, v: Array) -> Array:
        out = []
        heads = (np.split(array, self.config.heads, axis=-1) for array in (q, k, v))
        for queries, keys, values in zip(*heads, strict=True):
            logits = queries @ keys.T / np.sqrt(queries.shape[-1])
            probabilities = np.exp(logits - logits.max(-1, keepdims=True))
            out.append(probabilities / probabilities.sum(-1, keepdims=True) @ values)
        return np.concatenate(out, -1)

    # --- tokens and what is known of each

    def tokens(self) -> tuple[Array, Array, Array, Array]:
        """Embedded tokens, camera and animation time of each (of our conditioning), and its position."""
        p = self.config.patch
        tokens, camera, animation_time, position = [], [], [], []
        for role, clip in enumerate(self.clips):
            latents = self.x["noisy" if clip == "target" else clip]
            for k in range(len(latents)):
                for r in range(self.rows):
                    for c in range(self.columns):
                        cell = latents[k, r * p : (r + 1) * p, c * p : (c + 1) * p].reshape(-1)
                        tokens.append(self.dense(self.w, "patch_embedding", cell))
                        position.append((self.place(role, clip, k), r, c))
                        if self.config.camera == "plucker":
                            camera.append(self.camera(role, clip, k, r, c))
                            animation_time.append(self.animation_time(clip, k))
        return np.array(tokens), np.array(camera), np.array(animation_time), np.array(position)

    def place(self, role: int, clip: str, k: int) -> float:
        """Where the rotary embedding puts a latent frame on the axis of time."""
        return {
            "stream": k + role * self.frames,
            "shared": k - self.config.memory if clip == "memory" else k,
            "animation_time": np.mean(self.x[f"{clip}_animation_time"][pixel_frames(k, clip)]),
        }[self.config.rope_frames]

    def camera(self, role: int, clip: str, k: int, row: int, column: int) -> Array:
        """Of a token: the embedded Plücker coordinates of rays through it, and which clip it is of."""
        n, rays = self.config.ray_samples, []
        for frame in pixel_frames(k, clip):
            c2w = self.x[f"{clip}_c2w"][frame]
            fx, fy, cx, cy = self.x[f"{clip}_intrinsics"][frame]
            for i in range(n):
                for j in range(n):
                    u, v = (column + (j + 0.5) / n) / self.columns, (row + (i + 0.5) / n) / self.rows
                    d = c2w[:3, :3] @ np.array([(u - cx) / fx, (v - cy) / fy, 1.0])
                    d /= np.linalg.norm(d)
                    rays.append(np.concatenate([np.cross(c2w[:3, 3] / self.config.scene_scale, d), d]))
        embedded = self.mlp(self.w, "camera_encoder.embed", np.concatenate(rays))
        embedded = embedded + self.w["camera_encoder.role"][min(role, 1)]
        return embedded + self.w["camera_encoder.memory_role"] if clip == "memory" else embedded

    def animation_time(self, clip: str, k: int) -> Array:
        waves = [self.wave(t) for t in self.x[f"{clip}_animation_time"][pixel_frames(k, clip)]]
        waves = waves[-1] if self.config.animation_time == "uniform" else np.concatenate(waves)
        return self.mlp(self.w, "animation_time_encoder.embed", waves)

    def rotations(self, position: Array) -> Array:
        """Unit complex numbers by which rotary embedding multiplies pairs of channels, [tokens, head / 2]."""
        head = self.config.dim // self.config.heads
        spatial = 2 * (head // 6)
        angles = [
            position[:, axis : axis + 1] * 10000.0 ** (-np.arange(0, d, 2) / d)
            for axis, d in enumerate((head - 2 * spatial, spatial, spatial))
        ]
        return np.exp(1j * np.concatenate(angles, 1))

    def rotate(self, v: Array, turn: Array) -> Array:
        heads = []
        for head in np.split(v, self.config.heads, axis=-1):
            z = (head[:, 0::2] + 1j * head[:, 1::2]) * turn
            heads.append(np.stack([z.real, z.imag], -1).reshape(head.shape))
        return np.concatenate(heads, axis=-1)

    # --- the official conditioning: one vector per latent frame in each block

    def official_frames(self, b: dict[str, Array]) -> Array:
        second = "source" if self.config.camera == "pose12" else "target"
        poses = [self.x[f"{clip}_c2w"][::4, :3].reshape(self.frames, 12) for clip in ("target", second)]
        added = self.dense(b, "camera", np.concatenate(poses))
        if self.config.animation_time == "none":
            return added
        return added + np.concatenate([self.official_animation_time(clip, b) for clip in self.clips])

    def official_animation_time(self, clip: str, b: dict[str, Array]) -> Array:
        """One embedding per latent frame: two convolutions of stride 2 over each four pixel frames."""

        def group_norm(v: Array, name: str) -> Array:
            groups = v.reshape(len(v), 32, -1)
            groups = groups - groups.mean((0, 2), keepdims=True)
            groups = groups / np.sqrt((groups**2).mean((0, 2), keepdims=True) + 1e-5)
            return groups.reshape(v.shape) * b[f"{name}.scale"] + b[f"{name}.bias"]

        def conv(v: Array, name: str) -> Array:
            padded = np.concatenate([np.zeros((2, v.shape[1])), v])
            steps = [padded[i : i + 3] for i in range(0, len(padded) - 2, 2)]
            out = np.stack([np.einsum("ki,kio->o", step, b[f"{name}.kernel"]) for step in steps])
            return out + b[f"{name}.bias"]

        waves = np.stack([self.wave(t) for t in self.x[f"{clip}_animation_time"]])
        embedded = self.mlp(b, "animation_time.embedding", waves)
        out, at = [embedded[0]], "animation_time.downsampler"
        for start in range(1, len(waves), 4):
            v = embedded[start : start + 4]
            for i in (1, 2):
                v = silu(group_norm(conv(v, f"{at}.conv{i}"), f"{at}.norm{i}"))
            out.append(v[0])
        return np.stack(out)

    # --- the whole

    def velocity(self) -> Array:
        c, w = self.config, self.w
        xs, camera, animation_time, position = self.tokens()
        turn = self.rotations(position)
        t = self.mlp(w, "timestep_embedding", self.wave(float(self.x["timestep"])))
        t6 = self.dense(w, "timestep_projection", silu(t)).reshape(6, -1)
        words = self.mlp(w, "text_embedding", self.x["text"], gelu) if c.text_dim else None
        for layer in range(c.layers):
            b = {name[7:]: value[layer] for name, value in w.items() if name.startswith("blocks.")}
            if c.camera == "plucker":
                added = self.dense(b, "camera", camera) + self.dense(b, "animation_time", animation_time)
            elif c.camera == "none":
                added = np.zeros_like(xs)
            else:
                added = np.repeat(self.official_frames(b), self.rows * self.columns, axis=0)
            xs = self.block(b, xs, added, turn, t6, words)
        shift, scale = w["head_modulation"] + t
        y = self.dense(w, "head", self.norm(xs) * (1 + scale) + shift)
        y = y[: self.frames * self.rows * self.columns]
        y = y.reshape(self.frames, self.rows, self.columns, c.patch, c.patch, self.channels)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(self.x["noisy"].shape)

    def block(
        self, b: dict[str, Array], xs: Array, added: Array, turn: Array, t6: Array, words: Array | None
    ) -> Array:
        shift1, scale1, gate1, shift2, scale2, gate2 = b["modulation"] + t6
        y = self.norm(xs) * (1 + scale1) + shift1 + added
        q, k = (self.rotate(self.rms(b, f"norm_{n}", self.dense(b, n, y)), turn) for n in "qk")
        a = self.dense(b, "o", self.attention(q, k, self.dense(b, "v", y)))
        official = self.config.camera.startswith("pose12")
        xs = xs + gate1 * (self.dense(b, "projector", a) if official else a)
        if words is not None:
            y = self.norm(xs) * b["norm3.scale"] + b["norm3.bias"]
            q = self.rms(b, "cross_attn.norm_q", self.dense(b, "cross_attn.q", y))
            k = self.rms(b, "cross_attn.norm_k", self.dense(b, "cross_attn.k", words))
            a = self.attention(q, k, self.dense(b, "cross_attn.v", words))
            xs = xs + self.dense(b, "cross_attn.o", a)
        y = self.norm(xs) * (1 + scale2) + shift2
        return xs + gate2 * self.dense(b, "ffn_out", gelu(self.dense(b, "ffn_in", y)))
