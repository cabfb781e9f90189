"""The process that samples: what it makes, and how its work ends."""

import queue
import time

import numpy as np
import pytest

from stp_jax.edit.worker import Worker
from tests.environment import environment
from tests.tiny_model import write_tiny_model

WAIT = 120


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def worker():
    made = Worker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", environment(devices=1)["XLA_FLAGS"])
        yield made
        made.close()


def last(reports):
    """The report that ends a job."""
    while True:
        report = reports.get(timeout=WAIT)
        if report.what in ("video", "error"):
            return report


def test_it_makes_what_sample_makes_and_says_how_far_it_is(worker, weights, tmp_path):
    reports = queue.Queue()
    worker.submit("a", ["--weights", weights], reports.put, draft=False, folder=tmp_path / "take")
    seen = []
    while not seen or seen[-1].what not in ("video", "error"):
        seen.append(reports.get(timeout=WAIT))
    assert seen[-1].what == "video", seen[-1]
    assert seen[-1].video.shape == (5, 32, 32, 3) and seen[-1].video.dtype == np.uint8
    shares = [report.share for report in seen]
    assert shares == sorted(shares) and {"reading", "step 1 of 3, compiling"} <= {one.what for one in seen}
    assert (tmp_path / "take" / "settings.json").is_file()


def test_mistakes_are_said_in_the_words_of_the_command_line(worker, weights):
    reports = queue.Queue()
    worker.submit("a", ["--weights", weights, "--keyframes", "no.json"], reports.put, draft=True)
    report = last(reports)
    assert report.what == "error" and "no.json" in report.said and "\n" not in report.said


def test_the_next_job_of_an_owner_replaces_the_one_before_and_others_take_turns(worker, weights):
    first, second, other = queue.Queue(), queue.Queue(), queue.Queue()
    worker.submit("a", ["--weights", weights], first.put, draft=True)
    worker.submit("b", ["--weights", weights], other.put, draft=True)
    worker.submit("a", ["--weights", weights, "--camera=dolly_in"], second.put, draft=True)
    assert last(second).what == "video" and last(other).what == "video"
    ended = [first.get_nowait() for _ in range(first.qsize())]
    assert all(report.what not in ("video", "error") for report in ended)


def test_what_is_stopped_ends_without_a_word(worker, weights):
    reports = queue.Queue()
    worker.submit("a", ["--weights", weights, "--steps=3"], reports.put, draft=True)
    reports.get(timeout=WAIT)
    worker.stop("a")
    assert not worker.is_busy("a")
    count = reports.qsize()
    after = queue.Queue()
    worker.submit("b", ["--weights", weights], after.put, draft=True)
    assert last(after).what == "video"
    assert reports.qsize() == count


def test_a_process_that_dies_is_said_and_another_one_begins(worker, weights):
    reports = queue.Queue()
    worker.submit("a", ["--weights", weights], reports.put, draft=True)
    reports.get(timeout=WAIT)
    worker._process.kill()
    report = last(reports)
    assert report.what == "error" and "has ended" in report.said
    started = time.monotonic()
    worker.submit("a", ["--weights", weights], reports.put, draft=True)
    assert last(reports).what == "video" and time.monotonic() - started < WAIT


def test_what_cannot_be_started_is_said_and_the_next_job_is_done(worker, weights, monkeypatch):
    reports = queue.Queue()
    worker._process.kill()
    worker._process.join(5)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_start", lambda: 1 / 0)
        worker.submit("a", ["--weights", weights], reports.put, draft=True)
        assert "cannot work" in last(reports).said

    def fails(report):
        raise ValueError(report.what)  # a fault of one tab

    worker.submit("a", ["--weights", weights, "--keyframes", "no.json"], fails, draft=True)
    worker.submit("b", ["--weights", weights], reports.put, draft=True)
    assert last(reports).what == "video"
