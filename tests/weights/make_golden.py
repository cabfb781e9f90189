"""Writes golden.npz: outputs of diffusers' and transformers' models with the weights of `random_tensor`.

Run as `python -m tests.weights.make_golden` where the extra `convert` is installed. The tests beside it
compare our models with the same weights.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

from tests.stored_tensors import IDS, LATENTS, MASK, NOISY, TEXT, TIMESTEP, TINY, VIDEO, random_tensor


def make_transformer():
    c = TINY["dit"]
    return _fill(
        diffusers.WanTransformer3DModel(
            num_attention_heads=c.heads,
            attention_head_dim=c.dim // c.heads,
            in_channels=c.channels,
            out_channels=c.channels,
            text_dim=c.text_dim,
            freq_dim=c.freq_dim,
            ffn_dim=c.ffn_dim,
            num_layers=c.layers,
        )
    )


def make_vae():
    return _fill(diffusers.AutoencoderKLWan(base_dim=TINY["vae"].dim))


def make_text_encoder():
    c = TINY["text_encoder"]
    config = transformers.UMT5Config(
        vocab_size=c.vocab,
        d_model=c.dim,
        d_kv=c.attn_dim // c.heads,
        d_ff=c.ffn_dim,
        num_layers=c.layers,
        num_heads=c.heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return _fill(transformers.UMT5EncoderModel(config))


def _fill(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(random_tensor(name, tuple(parameter.shape))))
    return model.eval()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def channels_last(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def outputs() -> dict[str, np.ndarray]:
    """What the models give."""
    velocity = make_transformer()(
        hidden_states=channels_first(NOISY),
        timestep=torch.from_numpy(TIMESTEP),
        encoder_hidden_states=torch.from_numpy(TEXT),
    ).sample
    vae = make_vae()
    posterior = vae.encode(channels_first(VIDEO)).latent_dist
    words = make_text_encoder()(input_ids=torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK))
    return {
        "velocity": channels_last(velocity),
        "mean": channels_last(posterior.mean),
        "logvar": channels_last(posterior.logvar),
        "video": channels_last(vae.decode(channels_first(LATENTS)).sample),
        "words": words.last_hidden_state.detach().numpy(),
    }


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "golden.npz", **outputs())
