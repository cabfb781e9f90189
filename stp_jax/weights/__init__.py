"""Models on disk, in our own layout and in those they are published in: found, recognised, read, written."""
