"""Measures the models at full size with random weights: `python -m stp_jax.benchmark`."""
