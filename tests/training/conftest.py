import pytest

from tests.training.toy import install


@pytest.fixture(scope="module")
def toy():
    """Lets the trainer train the toy task on its data."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch.setattr)
        yield
