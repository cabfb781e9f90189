"""The reader of the manifests of checkpoints."""

from pathlib import Path

from tests.fuzz import mutators
from tests.fuzz.inputs import Reader, Seed


def _seeds(work: Path) -> list[Seed]:
    from stp_jax.training.checkpoints import MANIFEST, write_manifest

    files = {"params/d/0": b"numbers", "params/_METADATA": b"{}", "meta/metadata": b'{"step": 5}'}
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    write_manifest(work)
    files[MANIFEST] = (work / MANIFEST).read_bytes()
    return [Seed(files, MANIFEST, mutators.JSON), Seed(files, "params/d/0", mutators.BYTES)]


def _read(folder: Path) -> None:
    """Any damage is found, or the files are as they were written."""
    from stp_jax.training.checkpoints import find_damage

    damage = find_damage(folder)
    assert damage or (folder / "params/d/0").read_bytes() == b"numbers"
    assert damage is None or "\n" not in damage and len(damage) < 500


READERS = [Reader("manifest of a checkpoint", _seeds, _read, share=0.5)]
