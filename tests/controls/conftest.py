import pytest

from tests.controls.filmed import F
from tests.controls.random_cameras import random_cameras


@pytest.fixture(scope="module")
def poses():
    return random_cameras(3, F)[0]
