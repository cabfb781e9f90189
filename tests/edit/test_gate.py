"""Who may use the editor's page."""

import pytest

from stp_jax.edit.gate import Gate


def test_this_machine_needs_no_token_and_other_pages_are_refused():
    gate = Gate("127.0.0.1")
    assert gate.token is None and gate.address("127.0.0.1", 80) == "http://127.0.0.1:80/"
    assert gate.check("/", {"Host": "localhost:80"}) is None
    assert gate.check("/", {"Host": "127.0.0.1:80", "Origin": "http://127.0.0.1:80"}) is None
    assert gate.check("/", {"Host": "[::1]:80", "Origin": "http://[::1]:80"}) is None
    assert gate.check("/", {"Host": "127.0.0.1:80", "Origin": "https://evil.example"})
    assert gate.check("/", {"Host": "127.0.0.1:80", "Origin": "null"})
    # A name that was made to point here: the page of that name has the same origin.
    assert gate.check("/", {"Host": "evil.example:80", "Origin": "http://evil.example:80"})
    assert gate.check("/", {})


def test_other_addresses_need_the_token():
    gate = Gate("0.0.0.0")
    assert len(gate.token) >= 32
    assert gate.check("/", {"Host": "10.0.0.1:80"})
    assert gate.check("/?token=", {"Host": "10.0.0.1:80"})
    assert gate.check(f"/?token={gate.token}x", {"Host": "10.0.0.1:80"})
    assert gate.check(gate.address("10.0.0.1", 80).removeprefix("http://10.0.0.1:80"), {"Host": "h"}) is None
    cookie = {"Host": "10.0.0.1:80", "Cookie": f"a=b; stp_editor={gate.token}"}
    assert gate.check("/", cookie) is None
    assert gate.check("/", cookie | {"Origin": "http://evil.example"})
    assert gate.check("/", cookie | {"Cookie": "stp_editor=é"})


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_every_gate_has_a_token_of_its_own(host):
    one, other = Gate(host), Gate(host)
    assert one.token is None or one.token != other.token
