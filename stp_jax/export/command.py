"""Writes models in the forms that others read: official names, diffusers' folders, our own, StableHLO.

    python -m stp_jax.export --weights runs/wan/weights --format official --out exported

| format    | what the folder then holds |
|-----------|----------------------------|
| official  | dit.safetensors, vae.safetensors under the names of the official code, and a config.json |
| ckpt      | the same as .ckpt files for torch.load (needs the extra `convert`) |
| diffusers | transformer/ and vae/ for `from_pretrained`: plain Wan models only |
| ours      | what sample.py and train.py read fastest, in this library's names |
| lora      | lora.safetensors, of a LoRA run of train.py: --weights is its --workdir |
| stablehlo | the denoiser as one program for CPU, CUDA and TPU, its parameters, and run.py that calls both |

It takes any model that this library reads: its own, official checkpoints, diffusers' folders. Values are
copied bit by bit unless --dtype asks for another type. With --lora it writes the model that LoRAs make.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stp_jax.command_line import Parser, count
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.export.files import new_folder
from stp_jax.export.formats import FORMATS
from stp_jax.export.lora import export_lora
from stp_jax.export.stablehlo import export_stablehlo
from stp_jax.files import size_text
from stp_jax.weights import recognition
from stp_jax.weights.adapters import parse_lora
from stp_jax.weights.merging import merge
from stp_jax.weights.recognition import Pretrained

KINDS = ("dit", "vae", "text_encoder")


def find_models(path: str, only: list[str] | None) -> list[Pretrained]:
    """The models to export: those of `only`, by default the DiT and the VAE of a folder.

    Raises:
      InputError: a kind of `only` is missing; the path holds no model.
    """
    kinds = only or recognition.kinds_in(path)
    if not only and "dit" in kinds:
        kinds = [kind for kind in kinds if kind != "text_encoder"]
    return [recognition.recognise(path, kind) for kind in kinds]


def merged(models: list[Pretrained], loras: list[str]) -> list[Pretrained]:
    """The models, LoRAs merged into the DiT; prints what a user should know about them.

    Raises:
      InputError: there is no DiT to merge them into; see `merge`.
    """
    given = [parse_lora(one) for one in loras]
    if given and not any(found.kind == "dit" for found in models):
        raise InputError("--lora changes a DiT, and none is exported: leave it out.")
    models, remarks = list(models), []
    for i, found in enumerate(models):
        if found.kind == "dit":
            models[i], changed = merge(found, given)
            remarks += [one.remark() for one in changed]
    for line in remarks:
        print(f"Note: {line}")
    recognition.print_remarks(*models, merged=[lora.path.resolve() for lora in given])
    return models


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stp_jax.export", description=__doc__)
    add = parser.add_argument
    add("--weights", required=True, metavar="PATH", help="of any layout, see docs/official_weights.md")
    add("--format", required=True, choices=(*FORMATS, "lora", "stablehlo"), help="see above")
    add("--out", required=True, metavar="FOLDER", help="a new folder")
    add("--only", nargs="+", choices=KINDS, help="default: the DiT and the VAE, where there are")
    add("--lora", nargs="+", action="extend", metavar="FILE[:STRENGTH]", help="merged into the DiT")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "int8"),
        help="of the values; int8, with scales, for the format ours; default: as they are stored",
    )
    group = parser.add_argument_group("stablehlo: the sizes that the program is made for")
    group.add_argument("--batch", type=count, default=1, help="default 1")
    group.add_argument("--frames", type=count, help="of the video; default: as noted in the weights")
    group.add_argument(
        "--size", type=count, nargs=2, metavar=("WIDTH", "HEIGHT"), help="default: as noted in the weights"
    )
    flags = parser.parse_args(arguments)
    if flags.dtype == "int8" and flags.format != "ours":
        raise InputError("--dtype int8 is for --format ours: others do not read it so.")
    if flags.format == "lora":
        if flags.only or flags.lora:
            raise InputError("--format lora exports the LoRA of a run: give it without --only and --lora.")
        with new_folder(Path(flags.out), 0) as folder:
            what = export_lora(Path(flags.weights), folder, flags.dtype)
        print(f"{flags.out}: {what}")
        return
    if flags.format == "stablehlo":
        if flags.only not in (None, ["dit"]):
            raise InputError("--format stablehlo exports the dit alone: give it without --only.")
        models = [recognition.recognise(flags.weights, "dit")]
    else:
        models = find_models(flags.weights, flags.only)
    models = merged(models, flags.lora or [])
    needed = 0
    for found in models:
        itemsize = np.dtype(flags.dtype).itemsize if flags.dtype else None
        needed += sum(array.size * (itemsize or array.dtype.itemsize) for array in found.tensors.values())
    with new_folder(Path(flags.out), needed) as folder:
        if flags.format == "stablehlo":
            export_stablehlo(
                models[0],
                folder,
                dtype=flags.dtype,
                batch=flags.batch,
                frames=flags.frames,
                size=flags.size,
            )
        else:
            FORMATS[flags.format](models, folder, flags.dtype)
    print(f"{flags.out}: {', '.join(found.title for found in models)}, {size_text(needed)}")
