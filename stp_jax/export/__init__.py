"""Writes models in the forms that others read: `python -m stp_jax.export`."""
