"""Measures models on held-out scenes, beside baselines and each other: `python -m stp_jax.evaluate`."""
