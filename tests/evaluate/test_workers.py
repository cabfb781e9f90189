"""Measuring in processes of their own gives what measuring in one process gives."""

import json
import os
import signal

import pytest

from stp_jax.errors import InputError
from stp_jax.evaluate.measure import Measure
from tests.evaluate.test_measures import BRIGHTNESS, run

pytestmark = pytest.mark.usefixtures("without_metrics_plot")


class OfProcess(Measure):
    name, title = "process", "Where it is measured"

    def measure(self, scene, case, source, target, video):
        return {"number": os.getpid()}


class OnDevice(OfProcess):
    name, on_device = "device", True


class Killer(Measure):
    name, title = "killer", "Ends its process, as a machine without memory does"

    def measure(self, scene, case, source, target, video):
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


def scenes(folder):
    lines = (folder / "scenes.jsonl").read_text().splitlines()
    return [{tuple(row[:4]): row[4] for row in json.loads(line)} for line in lines]


def test_processes_measure_the_same_in_the_same_order(data, tmp_path, without_lpips):
    run(data, tmp_path / "alone", measures=(BRIGHTNESS,), workers=0)
    measures = (BRIGHTNESS, OfProcess(), OnDevice())
    run(data, tmp_path / "apart", measures=measures, workers=1)
    alone, apart = scenes(tmp_path / "alone"), scenes(tmp_path / "apart")
    assert [list(scene) for scene in alone] == [list(scene) for scene in apart]
    numbers = {"process": set(), "device": set()}
    for key, values in ((key, values) for scene in apart for key, values in scene.items()):
        for name, found in numbers.items():
            found |= {values.pop(f"{name}.number", None)} - {None}
        assert values == {k: v for scene in alone for k, v in scene.get(key, {}).items()}
    assert numbers["device"] == {os.getpid()}
    assert len(numbers["process"]) == 1 and os.getpid() not in numbers["process"]


def test_a_process_that_is_killed_is_an_error_that_says_so(data, tmp_path, without_lpips):
    with pytest.raises(InputError, match="was killed.*fewer --workers"):
        run(data, tmp_path / "out", measures=(Killer(),), workers=1)
