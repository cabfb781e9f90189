"""How long an evaluation takes, before it starts."""

import pytest

from stp_jax.evaluate import pace
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.measures import known_measures
from stp_jax.evaluate.scores import Model
from stp_jax.models.flop import dit_flop
from stp_jax.rerender.rerenderer import Rerenderer
from tests.tiny_model import DIT_CONFIG, STEPS, write_tiny_model


def test_seconds_are_operations_by_the_speed_of_a_product(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "product_speed", lambda *_: 1e6)
    model = Rerenderer(write_tiny_model(tmp_path))
    steps, vae = model.flop()
    assert steps == STEPS * dit_flop(DIT_CONFIG, model._latent_size()) and vae > 0
    one = Model("a", model, None)
    with_ceiling = one._replace(reconstruct=model.reconstruct, vae="same")
    second = pace.EFFICIENCY * 1e6
    assert pace.seconds_of_a_video([one]) == pytest.approx((steps + vae) / second)
    both = pace.seconds_of_a_video([with_ceiling, with_ceiling])  # which share the ceiling
    assert both == pytest.approx((2 * steps + 3 * vae) / second)
    assert pace.seconds_of_a_video([one._replace(rerender=lambda *_: None)]) is None


def test_what_is_said():
    said = pace.plan(32, 0, 10, 50)
    assert "32 scenes, 10 videos each: 320 videos in all.\nThe videos take about 27 minutes" in said
    assert "of which 20 are done.\nThe videos take about 25 minutes" in pace.plan(32, 2, 10, 50)
    assert pace.plan(4, 4, 10, 50) == "4 scenes, 10 videos each: 40 videos in all, of which 40 are done."
    assert "measures about 5 minutes" in pace.plan(32, 2, 10, 50, 10)
    assert pace.product_speed(8, 8, 8) > 0


def test_seconds_of_measures_are_of_models_and_ground_truths():
    class Slow(Measure):
        seconds, degraded = 2.0, True

    class Device(Measure):
        seconds, on_device = 3.0, True

    models = [Model(name, None, None, size=(17, 128, 256)) for name in "ab"]
    # Two models, the ground truth and the degraded one; LPIPS of the models and two baselines.
    expected = 2 * (4 * 2.0 + 3 * 3.0 + 4 * pace.LPIPS_SECONDS)
    assert pace.seconds_of_measures([Slow(), Device()], models, True) == pytest.approx(expected)
    assert pace.seconds_of_measures([Slow()], models, False, workers=4) == pytest.approx(4.0)
    assert pace.seconds_of_measures([], models, False) == 0
    assert all(measure.seconds > 0 for measure in known_measures() if measure.name != "disentanglement")
