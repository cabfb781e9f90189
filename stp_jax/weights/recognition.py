"""Finds the model of a kind in a file or folder, and recognises which model it is."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig, without_retired
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.weights import kinds, native
from stp_jax.weights.files import ENDINGS, open_tensors
from stp_jax.weights.layouts import dit, text_encoder, vae
from stp_jax.weights.layouts.table import Rule, check

LAYOUTS: dict[str, Any] = {"dit": dit, "vae": vae, "text_encoder": text_encoder}  # modules of tables
CONFIGS: dict[str, Any] = {"dit": DiTConfig, "vae": VAEConfig, "text_encoder": TextEncoderConfig}
NOUNS = {"dit": "a DiT", "vae": "a VAE", "text_encoder": "a text encoder"}

# A layout is recognised by tensors that only it has.
SIGNATURES = {
    r"blocks\.\d+\.self_attn\.": ("dit", "official"),
    r"blocks\.\d+\.attn1\.": ("dit", "diffusers"),
    r"(en|de)coder\.(down|up)samples\.\d+\.": ("vae", "official"),
    r"(en|de)coder\.(down|up)_blocks\.\d+\.": ("vae", "diffusers"),
    r"blocks\.\d+\.pos_embedding\.": ("text_encoder", "official"),
    r"encoder\.block\.\d+\.layer\.": ("text_encoder", "diffusers"),
}
# Names under which the models are published, in groups, the preferred ones first. A diffusers folder holds
# one folder for each model.
PUBLISHED = {
    "dit": (
        ("SpacetimePilot_1.3B_v1.ckpt", "step20000.ckpt"),
        ("diffusion_pytorch_model.safetensors.index.json",),
        ("diffusion_pytorch_model.safetensors",),
    ),
    "vae": (("Wan2.1_VAE.pth",), ("vae/diffusion_pytorch_model.safetensors",)),
    "text_encoder": (
        ("models_t5_umt5-xxl-enc-bf16.pth",),
        ("text_encoder/model.safetensors.index.json", "text_encoder/pytorch_model.bin.index.json"),
        ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
    ),
}
DEPTH = 3  # of folders to look into
SAMPLED_BYTES = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model on disk, of which only names and shapes have been read.

    Attributes:
      kind: `dit`, `vae` or `text_encoder`.
      layout: `ours`, `official` or `diffusers`.
      title: the common name of the model, for messages.
      config: of the model class.
      rules: from its tensors to our parameters.
      tensors: by name, memory-mapped.
      path: of the file, or of the folder in our own layout.
      sums: the SHA-256 that its files should have; none where its layout, or its version, has no checksums.
    """

    kind: str
    layout: str
    title: str
    config: Any
    rules: list[Rule]
    tensors: Mapping[str, np.ndarray]
    path: Path
    sums: Mapping[Path, str] = dataclasses.field(default_factory=dict)


def recognise(path: str | os.PathLike, kind: str | None = None) -> Pretrained:
    """The model that a file or folder holds. All its tensors are checked to be there with the right shapes.

    Args:
      path: a file or folder, see `find`.
      kind: the wanted kind. None: any.

    Raises:
      InputError: there is no model of the kind; the file is damaged, of another model or of an unknown one.
    """
    place = find(path, kind)
    if place.is_dir():
        return _recognise_ours(place, kind or _kinds_of_ours(place)[0])
    found = _recognise_file(place)
    if kind and found.kind != kind:
        raise InputError(f"{place} is {found.title}, not {NOUNS[kind]}.")
    check(found.rules, found.tensors, kinds.shapes(found.kind, found.config), _name(found))
    return found


def find(path: str | os.PathLike, kind: str | None = None) -> Path:
    """The place of the model of a kind in a file or folder that a user gave.

    Args:
      path: a weights file; a folder in our format; a folder of official downloads under their published names
        or in diffusers' form, at any depth up to 3; a folder with one weights file. The VAE and the text
        encoder are also found beside the file of a DiT.
      kind: see `recognise`. None: the first of DiT, VAE and text encoder that is there.

    Returns:
      A file, or a folder in our own format.

    Raises:
      InputError: it does not exist; it holds no model of the kind, or more than one.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist. Give a weights file or a folder that holds one.")
    if path.is_file():
        if kind not in ("vae", "text_encoder"):
            return path
        given = _recognise_file(path)
        if given.kind != "dit":
            return path
        beside = _find_in(path.parent, kind)
        if beside is None:
            raise InputError(
                f"{path} is {given.title}, not {NOUNS[kind]}, and none lies beside it. {_sought(kind)}"
            )
        return beside
    for one in [kind] if kind else list(LAYOUTS):
        found = _find_in(path, one)
        if found is not None:
            return found
    parts = [file.name for file in _weight_files(path) if _is_part(file)]
    lost = f" {parts[0]} is a part of a model, whose .index.json is missing." if parts else ""
    raise InputError(f"{path} holds no weights of {NOUNS[kind or 'dit']}.{lost} {_sought(kind or 'dit')}")


def kinds_in(path: str | os.PathLike) -> list[str]:
    """The kinds of the models in a folder, or the kind of a file.

    Raises:
      InputError: as `find`; there is no model.
    """
    path = Path(path)
    if not path.is_dir():
        return [_recognise_file(find(path)).kind]
    found = [kind for kind in LAYOUTS if _find_in(path, kind) is not None]
    if not found:
        raise InputError(f"{path} holds no weights. {_sought('dit')}")
    return found


def _sought(kind: str) -> str:
    names = [name for group in PUBLISHED[kind] for name in group]
    return f"Looked for {kind}.json (ours), {', '.join(names)}; give the path of the file."


def _find_in(folder: Path, kind: str) -> Path | None:
    if (folder / f"{kind}.json").is_file():
        return folder
    files = list(_weight_files(folder))
    for published in PUBLISHED[kind]:
        endings = tuple(f"/{name}" for name in published)
        matches = [file for file in files if file.as_posix().endswith(endings)]
        if kind == "dit":
            # The VAE of a diffusers folder has the same name.
            matches = [file for file in matches if file.parent == folder or file.parent.name != "vae"]
        if matches:
            return _only(matches, folder, kind)
    found: dict[Path, str] = {}
    problem: InputError | None = None
    for file in files:
        if file.parent == folder and not _is_part(file):
            try:
                found[file] = _recognise_file(file).kind
            except InputError as error:
                problem = problem or error
    if problem and not found:
        raise problem  # with models beside it, a file of another kind, such as an adapter, does not matter
    return _only([file for file, of in found.items() if of == kind], folder, kind)


def _only(files: list[Path], folder: Path, kind: str) -> Path | None:
    """The only file, or the first of several copies of it."""
    if any(not _same(files[0], other) for other in files[1:]):
        shown = ", ".join(str(file.relative_to(folder)) for file in files[:4])
        raise InputError(
            f"{folder} holds more than one file of {NOUNS[kind]}: {shown}. Give the path of one."
        )
    return files[0] if files else None


def _same(one: Path, other: Path) -> bool:
    """Whether two files are copies: of equal size, and equal at three places, as they may be large."""
    size = one.stat().st_size
    if size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        for start in (0, size // 2, max(0, size - SAMPLED_BYTES)):
            first.seek(start)
            second.seek(start)
            if first.read(SAMPLED_BYTES) != second.read(SAMPLED_BYTES):
                return False
    return True


def _weight_files(folder: Path) -> Iterator[Path]:
    """Files with the suffix of a weights file, those nearest to the top first."""
    folders = [folder]
    for _ in range(DEPTH + 1):
        entries = [entry for one in folders for entry in _entries(one) if entry.name[0] != "."]
        yield from (entry for entry in entries if entry.name.endswith(ENDINGS) and entry.is_file())
        folders = [entry for entry in entries if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except PermissionError:
        return []


def _is_part(file: Path) -> bool:
    return re.search(r"-\d{5}-of-\d{5}\.", file.name) is not None


def _kinds_of_ours(folder: Path) -> list[str]:
    return [kind for kind in LAYOUTS if (folder / f"{kind}.json").is_file()]


def _recognise_ours(folder: Path, kind: str) -> Pretrained:
    index, tensors = native.open_model(folder, kind)
    try:
        config = CONFIGS[kind](**without_retired(index["config"]))
    except (TypeError, ValueError) as error:
        reason = str(error)[:200]
        raise InputError(f"{folder / kind}.json: its config is none of this version: {reason}.") from None
    pieces = Counter(name.partition("#")[0] for name in tensors)
    rules = [
        Rule(name, f"{name}#{{n}}", pieces=count, stacked=False)
        if f"{name}#0" in tensors
        else Rule(name, name)
        for name, count in pieces.items()
    ]
    sums = native.sums_of(folder, index)
    found = Pretrained(kind, "ours", LAYOUTS[kind].title(config), config, rules, tensors, folder, sums)
    wanted = kinds.shapes(kind, config)
    known = [rule for rule in rules if rule.ours in wanted]
    check(known, tensors, wanted, _name(found))
    return found


def _recognise_file(path: Path) -> Pretrained:
    if _is_part(path) and "-of-00001." not in path.name:
        raise InputError(f"{path} is one part of a model: give the .index.json beside it, or its folder.")
    tensors: Mapping[str, np.ndarray] = open_tensors(path)
    signed = [
        of for signature, of in SIGNATURES.items() if any(re.match(signature, name) for name in tensors)
    ]
    if not signed:
        names = ", ".join(list(tensors)[:3])
        raise InputError(
            f"{path} is not a known model: its tensors are {names}, ... Known are Wan2.1, ReCamMaster, "
            "SpaceTimePilot, Wan's VAE and the umT5 encoder, in their own and in diffusers' layout."
        )
    kind, layout = signed[0]
    if (kind, layout) == ("text_encoder", "diffusers"):
        tensors = text_encoder.untie(tensors)
    module = LAYOUTS[kind]
    config = module.read_config(tensors, layout, _described(path.parent / "config.json"), str(path))
    rules = module.rules(config, layout)
    return Pretrained(kind, layout, module.title(config), config, rules, tensors, path)


def _described(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        described = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no JSON: {error}. Copy it again, or remove it.") from None
    return described if isinstance(described, dict) else {}


def _name(found: Pretrained) -> str:
    return f"{found.path} ({found.title})"
