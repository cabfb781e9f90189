"""Models on disk, in our own layout and in those they are published in: found, recognised and read."""

from stp_jax.pretrained.reading import graph, load, read, sampling_notes
from stp_jax.pretrained.recognition import Pretrained, find, kinds_in, recognise

__all__ = ["Pretrained", "find", "graph", "kinds_in", "load", "read", "recognise", "sampling_notes"]
