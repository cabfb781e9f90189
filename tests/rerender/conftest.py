import pytest

from tests.rerender.requests import video


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        "wide": video(folder / "wide.mp4", 20),
        "120": video(folder / "120.mp4", 120, 16, 16),
        "81": video(folder / "81.mp4", 81, 16, 16),
        "150": video(folder / "150.mp4", 150, 16, 16),
    }
