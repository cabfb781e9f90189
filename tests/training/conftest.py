import pytest

from stp_jax.training import loop
from tests.training.toy import install
from tests.training.toy_config import toy_config


@pytest.fixture(scope="module")
def toy():
    """Lets the trainer train the toy task on its data."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch.setattr)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory, toy):
    """The folder of a run of ten steps that nothing has stopped."""
    workdir = tmp_path_factory.mktemp("straight")
    assert loop.train(toy_config(log_every=5), workdir) is None
    return workdir
