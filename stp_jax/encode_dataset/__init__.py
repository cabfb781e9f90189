"""Writes latent caches of data sets of videos: `python -m stp_jax.encode_dataset`."""
