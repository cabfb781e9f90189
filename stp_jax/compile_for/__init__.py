"""Compiles a step for devices that are not there: `python -m stp_jax.compile_for`."""
