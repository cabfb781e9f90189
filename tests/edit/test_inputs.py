"""What is entered quickly, as by someone who does not wait for the page, is done in order, and stays."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from stp_jax.edit.inputs import Inputs


class Field:
    """As viser's: it has the latest value, whatever has been done with it."""

    def __init__(self, value):
        self.value = value

    def on_update(self, callback):
        self._callback = callback

    on_click = on_update

    def enter(self, value, client_id=1):
        self.value = value
        asyncio.run(self._callback(SimpleNamespace(client_id=client_id)))


@pytest.fixture
def inputs():
    made = Inputs(lambda work: work())
    yield made
    made.close(20)


def wait_for(inputs):
    done = threading.Event()
    inputs.do(done.set)
    assert done.wait(20)


def test_what_is_entered_while_an_edit_goes_on_is_not_lost(inputs):
    lens, orbit, goes_on = Field(50.0), Field((0, 0, 4)), threading.Event()
    state = {"lens": 50.0, "orbit": (0, 0, 4)}
    written = []

    def edit(name, value):
        if name == "lens":
            assert goes_on.wait(20)
        state[name] = value
        inputs.show(lens, state["lens"])
        inputs.show(orbit, state["orbit"])
        written.append(orbit.value)

    inputs.listen(lens, lambda value: edit("lens", value))
    inputs.listen(orbit, lambda value: edit("orbit", value))
    lens.enter(40.0)
    orbit.enter((12, 0, 4))
    orbit.enter((12, 5, 4))
    goes_on.set()
    wait_for(inputs)
    assert state == {"lens": 40.0, "orbit": (12, 5, 4)}
    assert orbit.value == (12, 5, 4) and set(written) == {(12, 5, 4)}  # never written over meanwhile


def test_buttons_of_a_group_that_are_pressed_quickly_are_all_done_in_order(inputs):
    group, pressed, goes_on = Field("Undo"), [], threading.Event()
    inputs.listen(group, lambda name: goes_on.wait(20) and pressed.append(name), on="click")
    for name in ("Undo", "Redo", "Undo", "Undo"):
        group.enter(name)
    goes_on.set()
    wait_for(inputs)
    assert pressed == ["Undo", "Redo", "Undo", "Undo"]


def test_closing_waits_for_what_was_entered_before(inputs):
    field, seen = Field(0), []
    inputs.listen(field, lambda value: wait_a_while() and seen.append(value))
    for value in (1, 2, 3):
        field.enter(value)
    inputs.close(20)
    assert seen == [1, 2, 3]


def wait_a_while():
    return not threading.Event().wait(0.05)


def test_what_the_program_writes_is_no_input(inputs):
    field, seen = Field(0), []
    inputs.listen(field, seen.append)
    field.enter(3, client_id=None)
    wait_for(inputs)
    assert not seen
    inputs.show(field, 5)
    assert field.value == 5


def test_what_was_typed_stays_until_its_button_is_pressed(inputs):
    start = Field(0.0)
    inputs.show_unless_typed(start, 0.0)
    start.value = 0.4  # typed
    inputs.show_unless_typed(start, 0.0)  # after an edit elsewhere
    assert start.value == 0.4
    inputs.used(start)
    inputs.show_unless_typed(start, 0.0)  # it was refused
    assert start.value == 0.0
    inputs.show_unless_typed(start, 1.0)  # another clip
    assert start.value == 1.0
