"""The curve of the demo's quality against pairs."""

import json

import numpy as np
import pytest

from benchmarks import demo_curve
from stp_jax.errors import InputError

PAIRS = np.array([0.2, 1, 3, 7, 12])


def test_the_fit_finds_the_curve_that_points_lie_on():
    psnr = demo_curve.quality(PAIRS, 22.9, 1.1, 0.4)
    np.testing.assert_allclose(psnr, [22.9 - 1.1 * n**-0.4 for n in PAIRS])
    np.testing.assert_allclose(demo_curve.fit(PAIRS, psnr), [22.9, 1.1, 0.4], rtol=1e-3)


def test_it_is_drawn_from_the_runs_that_were_measured(tmp_path, capsys):
    log, out = tmp_path / "runs.jsonl", tmp_path / "curve.png"
    measured = [
        {"out": f"run{n:g}", "trained_pairs": 1e6 * n, "validation_psnr": {"both": 20 - 1.5 * n**-0.5}}
        for n in PAIRS
    ]
    log.write_text("".join(f"{json.dumps(one)}\n" for one in [*measured, {"out": "run not measured"}]))
    demo_curve.main(["--log", str(log), "--out", str(out)])
    assert "both: 20.00 - 1.50 N^-0.50 dB" in capsys.readouterr().out
    assert out.read_bytes().startswith(b"\x89PNG")
    log.write_text("".join(f"{json.dumps(one)}\n" for one in measured[:3]))
    with pytest.raises(InputError, match="3 runs with a `validation_psnr`"):
        demo_curve.read_runs(log)
