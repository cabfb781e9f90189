"""The drawing of the clock, and its text."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from stp_jax.edit import clock
from stp_jax.errors import InputError


def test_the_drawing_has_its_keys_and_the_moments_pictures():
    frames = np.zeros((17, 32, 48, 3), np.uint8)
    pictures = [f"{one}#{i}" for i, one in enumerate(clock.thumbnails(frames))]
    curve = np.linspace(16, 0, 17)
    drawing = clock.draw(curve, [(0, 16), (16, 0)], pictures, 3, snap=True, selected=(0, 16))
    root = ElementTree.fromstring(drawing)
    assert root.get("data-text") == "0:16, 16:0" and root.get("data-snap") == "1"
    keys = [one.get("data-text") for one in root.iter("circle")]
    assert keys == ["0:16", "16:0"]
    shown = [int(one.get("href").split("#")[1]) for one in root.iter("image")]
    assert shown == sorted(shown, reverse=True) and shown[0] >= 14 and shown[-1] <= 2


def test_texts_are_points_or_something_else():
    points = [(0.0, 2.5), (16.0, 3.0)]
    assert clock.read_points(clock.as_text(points)) == points
    assert clock.read_points("bullet_time") is None and clock.read_points("0s:1s") is None
    with pytest.raises(InputError):
        clock.read_points("0:nan")
