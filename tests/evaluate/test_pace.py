"""How long an evaluation takes, before it starts."""

import pytest

from stp_jax.evaluate import pace
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
    assert "32 scenes, 10 videos each: 320 videos in all.\nThat takes about 27 minutes" in said
    assert "of which 20 are done.\nThat takes about 25 minutes" in pace.plan(32, 2, 10, 50)
    assert pace.plan(4, 4, 10, 50) == "4 scenes, 10 videos each: 40 videos in all, of which 40 are done."
    assert pace.product_speed(8, 8, 8) > 0
