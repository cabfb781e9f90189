"""What a test that renders needs: an OpenGL library, without which it is skipped."""

import os

import pytest

from input_pipeline.render import opengl
from stp_jax.errors import InputError

try:
    opengl.choose_backend()
    _missing = ""
except InputError as error:
    _missing = str(error)
    if os.environ.get("STP_REQUIRE_RENDER_TESTS"):
        raise

needs_opengl = pytest.mark.skipif(bool(_missing), reason=_missing)
