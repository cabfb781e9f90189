"""The weights files in a folder that a user gave, at some depth."""

from __future__ import annotations

import os
from pathlib import Path

from stp_jax.weights.files import ENDINGS

DEPTH = 3  # of folders to look into
MOST_ENTRIES = 10_000  # of all these folders; whoever gives `/` should not wait for it


def weights_files(folder: Path) -> tuple[list[Path], bool]:
    """Files with the suffix of a weights file, those nearest to the top first; and whether these are all."""
    folders, files, seen = [folder], [], 0
    for _ in range(DEPTH + 1):
        entries: list[Path] = []
        for one in folders:
            entries += (entry for entry in _entries(one) if entry.name[0] != ".")
            if seen + len(entries) > MOST_ENTRIES:
                break
        files += [entry for entry in entries if entry.name.endswith(ENDINGS) and os.path.isfile(entry)]
        seen += len(entries)
        if seen > MOST_ENTRIES:
            return files, False
        folders = [entry for entry in entries if os.path.isdir(entry)]
    return files, True


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # not allowed, or gone by now
        return []
