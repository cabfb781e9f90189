"""Draws and measures a built data set or a latent cache: `python -m input_pipeline.inspect`."""
