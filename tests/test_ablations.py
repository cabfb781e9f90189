"""The ablations: every row is a valid run that differs from the base, and the table says what runs wrote."""

import json

import pytest

from benchmarks import ablations
from stp_jax.command_line import read_config
from stp_jax.errors import InputError
from stp_jax.files import read_json_lines
from stp_jax.models.config import DiTConfig
from stp_jax.training.config import model_config

ROWS = sorted(path.stem for path in ablations.CONFIGS.glob("*.py") if path.stem != "__init__")


def flat(config, before=""):
    found = {}
    for name, value in config.items():
        found |= flat(value, f"{before}{name}.") if hasattr(value, "items") else {f"{before}{name}": value}
    return found


def test_every_row_is_a_model_and_differs_from_the_base_in_what_it_names():
    base = flat(read_config(str(ablations.CONFIGS / "base.py")))
    seen = {}
    for row in ROWS:
        config = read_config(str(ablations.CONFIGS / f"{row}.py"))
        model_config(DiTConfig, config.model)
        changed = {name: value for name, value in flat(config).items() if base.get(name, None) != value}
        assert bool(changed) == (row != "base"), row
        fixed = ("train.validation", "optimizer", *([] if row.startswith("demo") else ["pictures"]))
        assert not any(name.startswith(fixed) for name in changed), row
        assert seen.setdefault(str(changed), row) == row
    assert len(ROWS) >= 21


def lines():
    """A run of 6,050 steps, about 10 a second, that went back from step 3,000 to 2,000 once."""
    yield {"step": 1, "start_seconds": 12.0}
    for step in (1000, 2000, 3000, 2000, 3000, 4000, 5000, 6000):
        yield {"step": step, "step_seconds": 0.1, "elapsed_seconds": step / 10, "device_memory_gib": 3}
        yield {"step": step, "validation/loss": 1000 / step, "validation/static/loss": 2000 / step}
    yield {"step": 6050, "loss": 1.0, "elapsed_seconds": 610.0, "step_seconds": 0.3}
    yield {"step": 6050, "validation/loss": 0.125}


def test_losses_at_equal_steps_and_times_are_those_that_were_taken(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines()) + '{"step": 61')
    found = ablations.summarise(read_json_lines(path), [2000, 2500, 5000], [50, 300, 305, 9999])
    assert found["at_steps"] == {"2000": 0.5, "2500": None, "5000": 0.2}
    assert found["at_times"] == {"50": None, "300": 1 / 3, "305": 1 / 3, "9999": 0.125}
    assert (found["steps"], found["seconds"], found["last"]) == (6050, 610.0, 0.125)
    assert found["validation_sets"]["static"]["4000"] == 0.5
    assert found["step_ms"] == pytest.approx(100) and found["memory_gib"] == 3


def test_psnr_is_the_mean_of_a_group_without_copies_and_baselines(tmp_path):
    rows = [
        "scene,group,mode,method,psnr,ssim",
        "a,time control,forward,ours,90,1",  # the target is the source itself
        "a,time control,pause,ours,20,1",
        "b,time control,pause,ours,22,1",
        "a,time control,pause,VAE ceiling,40,1",
        "a,time control,pause,source as it is,10,1",
        "a,camera control,forward,ours,18,1",
    ]
    (tmp_path / "per_scene.csv").write_text("\n".join(rows) + "\n")
    assert ablations.read_psnr(tmp_path / "per_scene.csv") == {"time control": 21, "camera control": 18}


def test_the_table_has_a_line_for_each_run_and_a_dash_for_what_is_missing():
    done = ablations.summarise(list(lines()), [2000, 7000], [300])
    done |= {"row": "base", "seed": 0, "parameters_m": 17.52, "psnr": {"both": 19.256}}
    bare = ablations.summarise([{"step": 7, "loss": 1.0}], [2000, 7000], [300]) | {"row": "pose12", "seed": 1}
    head, _, *rest = ablations.table([done, bare], [2000, 7000], [300]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rest)]
    first, second = (dict(zip(cells[0], line, strict=True)) for line in cells[1:])
    assert first["loss at 2,000 steps"] == "0.5000" and first["loss at 7,000 steps"] == "-"
    assert first["at 300 s"] == "0.3333" and first["at the end"] == "0.1250"
    assert (first["steps"], first["step, ms"], first["memory, GiB"]) == ("6,050", "100.0", "3.0")
    assert first["PSNR both"] == "19.26" and first["PSNR time control"] == "-"
    assert second["row"] == "pose12" and second["at the end"] == "-" and second["memory, GiB"] == "-"


def test_a_row_that_does_not_exist_is_the_users_mistake():
    with pytest.raises(InputError, match="--rows spiral"):
        ablations.parse(["--rows", "spiral"])
    args = ablations.parse(["--rows", "all", "--seconds", "60", "--", "--config.mesh.data=1"])
    assert args.rows == ROWS and args.at_times == [30] and args.train_flags == ["--config.mesh.data=1"]
