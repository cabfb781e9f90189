"""Finds the model of a kind in a file or folder, and recognises which model it is."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig, without_retired
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.weights import bundles, fp8, kinds, native, schema
from stp_jax.weights.adapters import is_adapter
from stp_jax.weights.encoded import Encoded
from stp_jax.weights.files import open_tensors
from stp_jax.weights.folders import MOST_ENTRIES, weights_files
from stp_jax.weights.layouts import dit, text_encoder, vae
from stp_jax.weights.layouts.table import Rule, check
from stp_jax.weights.untrusted import read_json

LAYOUTS: dict[str, Any] = {"dit": dit, "vae": vae, "text_encoder": text_encoder}  # modules of tables
CONFIGS: dict[str, Any] = {"dit": DiTConfig, "vae": VAEConfig, "text_encoder": TextEncoderConfig}
NOUNS = {"dit": "a DiT", "vae": "a VAE", "text_encoder": "a text encoder"}

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
SAMPLED_BYTES = 2**20
MOST_BESIDE = 20  # files that are looked at for adapters


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model on disk, of which only names and shapes have been read.

    Attributes:
      kind: `dit`, `vae` or `text_encoder`.
      layout: `ours`, `official`, `diffusers` or `gguf` (of text encoders).
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
    found = _recognise_file(place, kind)
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
        given = _recognise_file(path, kind)
        if given.kind != "dit":
            return path
        problems: list[str] = []
        beside = _find_in(path.parent, kind, problems)
        if beside is None:
            raise InputError(
                f"{path} is {given.title}, not {NOUNS[kind]}, and none lies beside it. {_why(kind, problems)}"
            )
        return beside
    if not path.is_dir():
        raise InputError(f"{path} is no file. Give a weights file or a folder that holds one.")
    problems = []
    for one in [kind] if kind else list(LAYOUTS):
        found = _find_in(path, one, problems)
        if found is not None:
            return found
    raise _nothing(path, kind or "dit", problems)


def _nothing(folder: Path, kind: str, problems: list[str]) -> InputError:
    """The error for a folder without a model of a kind, with the reason why what is there is none."""
    files, whole = weights_files(folder)
    parts = [file.name for file in files if _is_part(file)]
    lost = f" {parts[0]} is a part of a model, whose .index.json is missing." if parts else ""
    if not whole:
        lost += f" It has more than {MOST_ENTRIES:,} files and folders: not all were looked at."
    return InputError(f"{folder} holds no weights of {NOUNS[kind]}.{lost} {_why(kind, problems)}")


def _why(kind: str, problems: list[str]) -> str:
    if not problems:
        return _sought(kind)
    others = sorted(set(problems) - {problems[0]})
    more = f" So is the case with {len(others)} other files." if others else ""
    return f"Not read: {problems[0]}{more}"


def kinds_in(path: str | os.PathLike) -> list[str]:
    """The kinds of the models in a folder or a file.

    Raises:
      InputError: as `find`; there is no model.
    """
    path = Path(path)
    if not path.is_dir():
        return _kinds_of_file(find(path))
    problems: list[str] = []
    found = [kind for kind in LAYOUTS if _find_in(path, kind, problems) is not None]
    if not found:
        raise _nothing(path, "dit", problems)
    return found


def _sought(kind: str) -> str:
    names = [name for group in PUBLISHED[kind] for name in group]
    return f"Looked for {kind}.json (ours), {', '.join(names)}; give the path of the file."


def _find_in(folder: Path, kind: str, problems: list[str]) -> Path | None:
    """The place of the model of a kind, or None. What is wrong with files that cannot be read is appended."""
    if (folder / f"{kind}.json").is_file():
        return folder
    files, _ = weights_files(folder)
    for published in PUBLISHED[kind]:
        endings = tuple(f"/{name}" for name in published)
        matches = [file for file in files if file.as_posix().endswith(endings)]
        if kind == "dit":
            # The VAE of a diffusers folder has the same name.
            matches = [file for file in matches if file.parent == folder or file.parent.name != "vae"]
        if matches:
            return _only(matches, folder, kind)
    found: dict[Path, list[str]] = {}
    for file in files:
        if file.parent == folder and not _is_part(file):
            try:
                found[file] = _kinds_of_file(file)
            except InputError as error:
                problems.append(str(error))
    return _only([file for file, of in found.items() if kind in of], folder, kind)


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


def _is_part(file: Path) -> bool:
    return re.search(r"-\d{5}-of-\d{5}\.", file.name) is not None


def _kinds_of_file(path: Path) -> list[str]:
    """The kinds of the models in a file; all are recognised. Raises `InputError` as `recognise`."""
    first = _recognise_file(path).kind
    others = bundles.models_in(fp8.decoded(open_tensors(path), path), path).keys() - {first}
    return [first, *(_recognise_file(path, kind).kind for kind in LAYOUTS if kind in others)]


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


def _recognise_file(path: Path, kind: str | None = None) -> Pretrained:
    """The model of a file; of one with several that of a kind, where it has it."""
    if _is_part(path) and "-of-00001." not in path.name:
        raise InputError(f"{path} is one part of a model: give the .index.json beside it, or its folder.")
    stored = fp8.decoded(open_tensors(path), path)
    models = bundles.models_in(stored, path)
    if not models:
        raise InputError(_what_it_is(path, stored))
    kind = kind if kind in models else next(one for one in LAYOUTS if one in models)
    layout, tensors = models[kind]
    if (kind, layout) == ("text_encoder", "diffusers"):
        tensors = text_encoder.untie(tensors)
    module = LAYOUTS[kind]
    described = _described(path.parent / "config.json")
    try:
        config = module.read_config(tensors, layout, described, str(path))
    except ValueError as error:  # of a config.json that does not fit to the tensors, too
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    rules = module.rules(config, layout)
    return Pretrained(kind, layout, module.title(config), config, rules, tensors, path)


def _what_it_is(path: Path, tensors: Mapping[str, np.ndarray]) -> str:
    if is_adapter(tensors):
        return f"{path} is an adapter (LoRA), not a model. Give the model, and the LoRA as --lora {path}."
    names = ", ".join(list(tensors)[:3])
    return (
        f"{path} is not a known model: its tensors are {names}, ... Known are Wan2.1, ReCamMaster, "
        "SpaceTimePilot, Wan's VAE and the umT5 encoder, in their own and in diffusers' layout."
    )


def remarks(found: Pretrained, merged: Collection[Path] = ()) -> list[str]:
    """What a user should know about a model that is read and about what lies beside it, a line each.

    Args:
      found: the model.
      merged: LoRAs that are merged into a model.
    """
    lines = []
    if found.layout == "ours" and not found.sums:
        lines.append(
            f"{found.path} was written by an earlier version, without checksums: damage to its numbers would "
            "go unnoticed."
        )
    stored: Iterable[Any] = found.tensors.values()
    codes = [array for array in stored if isinstance(array, Encoded)]
    if codes and found.layout != "ours":
        lines.append(
            f"{found.path} has {len(codes)} of its {len(found.tensors)} tensors in {codes[0].kind}: they are "
            "decoded while they are read, and take as much memory as others."
        )
    folder = found.path if found.path.is_dir() else found.path.parent
    beside = [file for file in weights_files(folder)[0] if not _is_part(file) and file != found.path]
    beside = [file for file in beside if not {file.resolve(), file.parent.resolve()} & set(merged)]
    for file in beside[:MOST_BESIDE]:
        try:
            adapter = is_adapter(open_tensors(file))
        except InputError:
            continue  # nothing to do with this model
        if adapter:
            lines.append(
                f"{file} is an adapter (LoRA) and is NOT applied: give sample.py, stp_jax.evaluate or "
                f"stp_jax.export --lora {file}."
            )
    return lines


def print_remarks(*found: Pretrained, merged: Collection[Path] = ()) -> None:
    """Prints the `remarks` on the models that a command takes, each once."""
    for line in dict.fromkeys(line for one in found for line in remarks(one, merged)):
        print(f"Note: {line}")


def _described(path: Path) -> dict[str, Any]:
    """What the config.json beside a file says, checked; nothing where there is none."""
    if not path.is_file():
        return {}
    described = read_json(path)
    schema.check_fields(described, schema.DESCRIBED, f"{path}: ")
    return described


def _name(found: Pretrained) -> str:
    return f"{found.path} ({found.title})"
