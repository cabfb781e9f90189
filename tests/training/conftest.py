import pytest

from stp_jax.training import loop
from tests.training.toy import ToyTask, make_toy_dataset


@pytest.fixture
def toy(monkeypatch):
    """Lets the trainer train the toy task on its data."""
    monkeypatch.setattr(loop, "make_task", ToyTask)
    monkeypatch.setattr(loop, "make_dataset", make_toy_dataset)
