"""Generative space-time re-rendering: direct the camera and the clock of a video."""
