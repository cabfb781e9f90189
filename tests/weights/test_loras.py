"""LoRAs in every layout are merged as a float64 reference, and diffusers with PEFT, merge them."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import flatten
from stp_jax.rerender.pretrained import sampling_remarks
from stp_jax.weights import changes, int8, kinds, native, reading, recognition
from stp_jax.weights.adapters import Lora, parse_lora, read_adapter
from stp_jax.weights.layouts import dit
from stp_jax.weights.layouts.table import lazy_parameters, stored_shapes
from stp_jax.weights.merging import merge
from tests.stored_tensors import SPACETIMEPILOT, TINY, TINY_DIT, random_tensor, random_tensors

PILOT = DiTConfig(**SPACETIMEPILOT | TINY_DIT)
RANK, ALPHA = 4, 6.0
OFFICIAL = random_tensors("dit", PILOT, "official")
# Module under its official name: all of a block's kinds, layers outside blocks, a convolution, the patches.
MODULES = (
    *("blocks.0.self_attn.q", "blocks.1.self_attn.q", "blocks.1.cross_attn.o", "blocks.0.ffn.0"),
    *("blocks.1.ffn.2", "time_projection.1", "text_embedding.0", "head.head", "patch_embedding"),
    *("blocks.0.projector", "blocks.1.temporal_downsampler.temporal_conv1"),
)
DIFFUSERS = {
    **{"blocks.0.self_attn.q": "blocks.0.attn1.to_q", "blocks.1.self_attn.q": "blocks.1.attn1.to_q"},
    **{"blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0", "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj"},
    **{"blocks.1.ffn.2": "blocks.1.ffn.net.2", "time_projection.1": "condition_embedder.time_proj"},
    **{"text_embedding.0": "condition_embedder.text_embedder.linear_1", "head.head": "proj_out"},
}


def matrices(module: str, tensors=OFFICIAL) -> tuple[np.ndarray, np.ndarray]:
    """Down and up, of a convolution with its axes."""
    shape = tensors[f"{module}.weight"].shape
    up = (shape[0], RANK, *(1,) * (len(shape) - 2))
    return random_tensor(f"{module}.down", (RANK, *shape[1:])), random_tensor(f"{module}.up", up)


def delta(module: str, scale: float, tensors=OFFICIAL) -> np.ndarray:
    """What a LoRA adds to the stored tensor, in float64."""
    down, up = (one.astype(np.float64) for one in matrices(module, tensors))
    product = up.reshape(-1, RANK) @ down.reshape(RANK, -1)
    return scale * product.reshape(tensors[f"{module}.weight"].shape)


def kohya(module: str) -> str:
    return f"lora_unet_{module.replace('.', '_')}"


LAYOUTS = {  # prefix and module, down, up, and whether there is an alpha
    "kohya": (kohya, ".lora_down.weight", ".lora_up.weight", True),
    "kohya, diffusers' names": (
        lambda m: kohya(DIFFUSERS.get(m, m)),
        ".lora_down.weight",
        ".lora_up.weight",
        True,
    ),
    "comfyui": (lambda m: f"diffusion_model.{m}", ".lora_A.weight", ".lora_B.weight", False),
    "lightx2v": (lambda m: f"diffusion_model.{m}", ".lora_down.weight", ".lora_up.weight", True),
    "diffsynth": (lambda m: m, ".lora_A.default.weight", ".lora_B.default.weight", False),
    "diffsynth, older": (lambda m: f"pipe.dit.{m}", ".lora_A.weight", ".lora_B.weight", False),
    "diffusers": (lambda m: f"transformer.{DIFFUSERS.get(m, m)}", ".lora_A.weight", ".lora_B.weight", False),
    "peft": (lambda m: f"base_model.model.{m}", ".lora_A.weight", ".lora_B.weight", False),
    "attention processors": (lambda m: DIFFUSERS.get(m, m), "_lora.down.weight", "_lora.up.weight", True),
}


def lora_tensors(layout: str, modules=MODULES) -> dict[str, np.ndarray]:
    name, down, up, alpha = LAYOUTS[layout]
    tensors = {}
    for module in modules:
        for ending, array in zip((down, up), matrices(module), strict=True):
            tensors[name(module) + ending] = array
        if alpha:
            tensors[f"{name(module)}.alpha"] = np.array(ALPHA, np.float32)
    return tensors


@pytest.fixture
def pilot(tmp_path):
    save_file(OFFICIAL, tmp_path / "pilot.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"dim": 64, "num_heads": 2}))
    return recognition.recognise(tmp_path / "pilot.safetensors", "dit")


def expected(deltas: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters, where these differences are added to stored tensors in float64."""
    stored = {name: array.astype(np.float64) + deltas.get(name, 0) for name, array in OFFICIAL.items()}
    rules = dit.rules(PILOT, "official")
    return {name: np.asarray(value) for name, value in lazy_parameters(rules, stored).items()}


def assert_merged(read, deltas, atol=1e-6):
    for name, wanted in expected(deltas).items():
        np.testing.assert_allclose(
            np.asarray(read[name], np.float64), wanted, atol=atol, rtol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_merged_as_in_float64(pilot, tmp_path, layout, monkeypatch):
    monkeypatch.setattr(changes, "BLOCK", 500)  # several blocks for each layer
    save_file(lora_tensors(layout), tmp_path / "lora.safetensors")
    found, (merged,) = merge(pilot, [Lora(tmp_path / "lora.safetensors", 0.7)])
    scale = 0.7 * (ALPHA / RANK if LAYOUTS[layout][3] else 1)
    assert (merged.layers, merged.left_out) == (len(MODULES), ())
    assert_merged(reading.read(found), {f"{module}.weight": delta(module, scale) for module in MODULES})


def test_several_are_added_and_the_stored_type_does_not_matter(pilot, tmp_path):
    one = {name: array.astype("bfloat16") for name, array in lora_tensors("kohya").items()}
    save_file(one, tmp_path / "one.safetensors")
    save_file(lora_tensors("comfyui", MODULES[:3]), tmp_path / "two.safetensors")
    files = [Lora(tmp_path / "one.safetensors"), Lora(tmp_path / "two.safetensors", -2.0)]
    found, merged = merge(pilot, files)
    assert [one.layers for one in merged] == [len(MODULES), 3]
    deltas = {}
    for module in MODULES:
        down, up = (one[f"{kohya(module)}.lora_{end}.weight"].astype(np.float64) for end in ("down", "up"))
        product = up.reshape(-1, RANK) @ down.reshape(RANK, -1) * ALPHA / RANK
        deltas[f"{module}.weight"] = product.reshape(OFFICIAL[f"{module}.weight"].shape)
    for module in MODULES[:3]:
        deltas[f"{module}.weight"] += delta(module, -2.0)
    assert_merged(reading.read(found), deltas, atol=2e-6)


def test_differences_of_whole_tensors(pilot, tmp_path):
    wanted = {
        "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.self_attn.norm_q.weight",
        "diffusion_model.blocks.1.self_attn.k.diff_b": "blocks.1.self_attn.k.bias",
        "diffusion_model.blocks.1.diff_m": "blocks.1.modulation",
        "diffusion_model.head.diff_m": "head.modulation",
        "diffusion_model.head.head.diff": "head.head.weight",
        "diffusion_model.blocks.1.norm3.diff_b": "blocks.1.norm3.bias",
        "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    }
    differences = {name: random_tensor(name, OFFICIAL[stored].shape) for name, stored in wanted.items()}
    bias = {
        "diffusion_model.blocks.0.ffn.0.lora_B.bias": random_tensor(
            "b", OFFICIAL["blocks.0.ffn.0.bias"].shape
        )
    }
    save_file(lora_tensors("comfyui", MODULES[:4]) | differences | bias, tmp_path / "lora.safetensors")
    found, (merged,) = merge(pilot, [Lora(tmp_path / "lora.safetensors", 0.5)])
    assert not merged.left_out
    deltas = {stored: 0.5 * differences[name] for name, stored in wanted.items()}
    deltas |= {f"{module}.weight": delta(module, 0.5) for module in MODULES[:4]}
    deltas["blocks.0.ffn.0.bias"] = 0.5 * next(iter(bias.values()))
    assert_merged(reading.read(found), deltas)


def test_weights_in_our_own_layout_and_parts_of_many_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "BLOCK", 500)
    parameters = expected({})
    config = dataclasses.asdict(PILOT)
    native.save_weights(tmp_path / "ours", "dit", parameters, config, part_bytes=9_000)  # kernels in pieces
    save_file(lora_tensors("comfyui"), tmp_path / "lora.safetensors")
    ours = recognition.recognise(tmp_path / "ours", "dit")
    found, _ = merge(ours, [Lora(tmp_path / "lora.safetensors")])
    deltas = {f"{module}.weight": delta(module, 1.0) for module in MODULES}
    assert_merged(reading.read(found), deltas)
    graph, state = reading.load(found, make_mesh(data=2, fsdp=4), "float32")
    assert_merged(flatten(nnx.merge(graph, state)), deltas)


@pytest.mark.parametrize("part_bytes", [9_000, 1 << 20])
def test_weights_in_8_bits_in_our_own_layout(tmp_path, monkeypatch, part_bytes):
    """What is added is the same as to float32, kernels of all layers in one tensor or in pieces."""
    monkeypatch.setattr(int8, "LEAST", 8)
    plain, config = expected({}), dataclasses.asdict(PILOT)
    native.save_weights(tmp_path / "ours", "dit", plain, config, part_bytes=part_bytes, dtype="int8")
    save_file(lora_tensors("comfyui"), tmp_path / "lora.safetensors")
    ours = recognition.recognise(tmp_path / "ours", "dit")
    base = reading.read(ours)
    assert any(isinstance(array, int8.Int8) for array in ours.tensors.values())
    merged = reading.read(merge(ours, [Lora(tmp_path / "lora.safetensors")])[0])
    wanted = expected({f"{module}.weight": delta(module, 1.0) for module in MODULES})
    for name in merged:
        added = wanted[name] - plain[name]
        np.testing.assert_allclose(merged[name] - base[name], added, atol=1e-5, err_msg=name)


def test_a_model_of_our_own_takes_what_it_shares_with_wan(tmp_path):
    config = dataclasses.replace(TINY["dit"], source=True, camera="plucker", animation_time="frames")
    shapes = kinds.shapes("dit", config)
    values = {name: random_tensor(name, shape.shape) for name, shape in shapes.items()}
    native.save_weights(tmp_path / "ours", "dit", values, dataclasses.asdict(config))
    modules = [*MODULES[:4], "blocks.0.projector"]
    save_file(lora_tensors("kohya", modules), tmp_path / "lora.safetensors")
    found, (merged,) = merge(recognition.recognise(tmp_path / "ours"), [Lora(tmp_path / "lora.safetensors")])
    assert merged.layers == 4 and merged.left_out == ("blocks_0_projector",)
    assert (
        "merged into 4 layers, strength 1. 1 of its layers does not fit and is left out: blocks_0_projector."
        in merged.remark()
    )
    kernel = reading.read(found)["blocks.q.kernel"]
    wanted = values["blocks.q.kernel"][1] + delta("blocks.1.self_attn.q", ALPHA / RANK).T
    np.testing.assert_allclose(kernel[1], wanted, atol=1e-6)


def test_alphas_of_peft_stand_in_the_header_or_beside_the_file(pilot, tmp_path):
    config = {"r": RANK, "lora_alpha": 2.0, "use_rslora": True, "alpha_pattern": {"blocks.0.attn1.to_q": 10}}
    of_header = {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in config.items()})}
    save_file(lora_tensors("diffusers"), tmp_path / "lora.safetensors", metadata=of_header)
    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(lora_tensors("diffusers"), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    deltas = {f"{module}.weight": delta(module, 2 / RANK**0.5) for module in MODULES}
    deltas["blocks.0.self_attn.q.weight"] = delta("blocks.0.self_attn.q", 10 / RANK**0.5)
    for path in (tmp_path / "lora.safetensors", folder, folder / "adapter_model.safetensors"):
        assert_merged(reading.read(merge(pilot, [Lora(path)])[0]), deltas)


def test_no_name_of_one_layout_means_another_layer_in_the_other():
    for config in (PILOT, TINY["dit"]):
        seen: dict = {}
        for layout in dit.LAYOUTS:
            for rule in dit.named_rules(config, layout):
                for n, name in enumerate(stored_shapes([rule], kinds.shapes("dit", config))):
                    assert seen.setdefault(name.replace(".", "_"), (rule.ours, n)) == (rule.ours, n)


def test_a_lora_of_another_model_is_refused_with_the_reason(pilot, tmp_path):
    path = tmp_path / "lora.safetensors"
    wide = {
        "blocks.0.self_attn.q.lora_A.weight": np.zeros((4, 128), np.float32),
        "blocks.0.self_attn.q.lora_B.weight": np.zeros((128, 4), np.float32),
    }
    save_file(wide, path)
    complaint = (
        r"fits no layer of SpaceTimePilot.*: blocks.0.self_attn.q \(128 x 128 instead of 64 x 64\), .. It was"
    )
    with pytest.raises(InputError, match=complaint):
        merge(pilot, [Lora(path)])
    save_file({name.replace("blocks", "double_blocks"): array for name, array in wide.items()}, path)
    with pytest.raises(
        InputError, match=r"fits no layer of .*: double_blocks.0.self_attn.q, .. It was made for"
    ):
        merge(pilot, [Lora(path)])
    save_file(lora_tensors("comfyui"), path)
    with pytest.raises(InputError, match="is given twice"):
        merge(pilot, [Lora(path), Lora(tmp_path / "x" / ".." / "lora.safetensors")])


DAMAGED = {  # what is changed in the tensors of a LoRA -> the complaint
    "counterpart": ({"x.lora_A.weight": np.zeros((4, 8))}, "x.lora_A.weight has no counterpart"),
    "rank": (
        {"x.lora_A.weight": np.zeros((4, 8)), "x.lora_B.weight": np.zeros((8, 5))},
        r"the matrices of 'x' are \[4, 8\] and \[8, 5\]",
    ),
    "alpha": (
        {
            "x.lora_A.weight": np.zeros((4, 8)),
            "x.lora_B.weight": np.zeros((8, 4)),
            "x.alpha": np.full(1, np.inf),
        },
        "x.alpha has numbers that are NaN or infinite",
    ),
    "alphas": (
        {"x.lora_A.weight": np.zeros((4, 8)), "x.lora_B.weight": np.zeros((8, 4)), "x.alpha": np.ones(3)},
        "alpha of 'x' is a list",
    ),
    "nan": ({"x.lora_A.weight": np.full((4, 8), np.nan)}, "x.lora_A.weight has numbers that are NaN"),
    "whole": ({"x.lora_A.weight": np.zeros((4, 8), np.int8)}, "x.lora_A.weight is int8, no floating-point"),
    "two": (
        {"x.lora_A.weight": np.zeros((4, 8)), "x.lora_down.weight": np.zeros((4, 8))},
        "has two tensors for 'x'",
    ),
    "two prefixes": (
        {f"{p}x.lora_{ab}.weight": np.zeros((4, 4)) for p in ("", "dit.") for ab in "AB"},
        "has 'x' under two names",
    ),
    "model": (
        {"x.weight": np.zeros(3), "y.weight": np.zeros(3)},
        "is no LoRA: its tensors are x.weight, y.weight",
    ),
    "lokr": ({"x.lokr_w1": np.zeros(3), "x.lokr_w2": np.zeros(3)}, "is a LoKr .*, which is not read"),
    "dora": (
        {
            "x.lora_A.weight": np.zeros((4, 8)),
            "x.dora_scale": np.ones(4),
            "x.lora_B.weight": np.zeros((4, 4)),
        },
        "is a DoRA",
    ),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_what_is_damaged_or_of_another_form_is_named(tmp_path, fault):
    tensors, complaint = DAMAGED[fault]
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match=complaint):
        read_adapter(tmp_path / "lora.safetensors")


def test_strengths_are_read_after_the_last_colon(tmp_path):
    path = tmp_path / "a:0.5"
    path.touch()
    assert parse_lora(path) == (path, 1.0)
    assert parse_lora(f"{path}:-0.25") == (path, -0.25)
    for text, complaint in (
        (f"{path}:0", "a strength of 0: it has no effect"),
        (f"{path}:nan", "a strength of nan: give one up to 100"),
        (f"{path}:much", "'much' is no strength"),
        (f"{tmp_path}/b", "there is no such file. Give FILE or FILE:STRENGTH"),
        (f"{tmp_path}/b:1", "there is no such file. Give"),
    ):
        with pytest.raises(InputError, match=complaint):
            parse_lora(text)


def test_loras_for_few_steps_are_remarked_on(tmp_path):
    for name, steps, guidance, said in (
        (
            "wan_lightx2v_4steps_rank64.safetensors",
            20,
            5.0,
            "--steps 4 --guidance 1. Used are 20 steps and guidance 5",
        ),
        ("wan_lightx2v_4steps_rank64.safetensors", 4, 1.0, None),
        ("wan_4step.safetensors", 4, 5.0, "Used are 4 steps and guidance 5"),
        ("Wan21_CausVid.safetensors", 20, 1.0, "--steps 4 to 8 --guidance 1"),
        ("Wan21_CausVid.safetensors", 6, 1.0, None),
        ("style_2000_steps.safetensors", 20, 5.0, None),
    ):
        (tmp_path / name).touch()
        remarks = sampling_remarks([tmp_path / name], steps, guidance)
        assert (said in remarks[0]) if said else not remarks


@pytest.mark.parametrize("layout", ["kohya", "comfyui", "lightx2v", "diffusers"])
def test_diffusers_and_peft_merge_the_same(tmp_path, layout):
    for package in ("torch", "diffusers", "peft"):
        pytest.importorskip(package, reason=f"pip install 'stp-jax[convert]' to compare with {package}")
    import diffusers

    from tests.weights import make_golden

    # diffusers' conversion expects every layer of the blocks.
    names = [
        n
        for n in random_tensors("dit", TINY["dit"], "official")
        if n.startswith("blocks") and "norm" not in n
    ]
    modules = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    theirs = {}
    for rule, other in zip(
        dit.rules(TINY["dit"], "official"), dit.rules(TINY["dit"], "diffusers"), strict=True
    ):
        theirs |= dict(zip(rule.names(), other.names(), strict=True))
    tensors = lora_tensors(layout, modules)
    if layout == "diffusers":
        tensors = {}
        for module in modules:
            own = theirs[f"{module}.weight"].removesuffix(".weight")
            for end, array in zip("AB", matrices(module), strict=True):
                tensors[f"transformer.{own}.lora_{end}.weight"] = array
    save_file(tensors, tmp_path / "lora.safetensors")
    model = make_golden.make_transformer()
    model.save_pretrained(tmp_path / "wan")
    state = diffusers.WanPipeline.lora_state_dict(str(tmp_path / "lora.safetensors"))
    model.load_lora_adapter(state, prefix="transformer")
    model.set_adapters("default_0", weights=[0.6])
    model.fuse_lora()
    model.unload_lora()
    found, (merged,) = merge(
        recognition.recognise(tmp_path / "wan", "dit"), [Lora(tmp_path / "lora.safetensors", 0.6)]
    )
    assert merged.layers == len(modules) and not merged.left_out
    fused = {name: p.detach().numpy() for name, p in model.named_parameters()}
    wanted = lazy_parameters(dit.rules(TINY["dit"], "diffusers"), fused)
    read = reading.read(found)
    base = reading.read(recognition.recognise(tmp_path / "wan", "dit"))
    for name, value in wanted.items():
        np.testing.assert_allclose(read[name], np.asarray(value), atol=2e-6, rtol=1e-5, err_msg=name)
    assert np.abs(read["blocks.ffn_in.kernel"] - base["blocks.ffn_in.kernel"]).max() > 0.1
