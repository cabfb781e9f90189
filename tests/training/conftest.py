import pytest

from stp_jax.training import loop
from tests.training.toy import ToyTask, make_toy_dataset


@pytest.fixture(scope="module")
def toy():
    """Lets the trainer train the toy task on its data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_task", ToyTask)
        patch.setattr(loop, "make_dataset", make_toy_dataset)
        yield
