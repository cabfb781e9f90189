"""Who may use the page: the server's own machine, or whoever knows the token of its address.

viser answers any connection. A browser lets every web page open a websocket to this machine, and names that
are made to point here get past its rule of one origin. So each request is looked at before viser sees it:
`Gate.check` is put in front of viser's own `process_request` of the websockets library.
"""

from __future__ import annotations

import hmac
import http
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

LOCAL = ("127.0.0.1", "localhost", "::1")
_COOKIE = "stp_editor"
_CLOSED = "This page needs the address with its token, as the command printed it.\n"


def is_local(host: str) -> bool:
    return host in LOCAL


class Gate:
    """Looks at requests.

    Args:
      host: that the server binds to. Beyond this machine a token is needed.
    """

    def __init__(self, host: str):
        self.token = None if is_local(host) else secrets.token_urlsafe(24)
        self.stands = False  # whether it is in front of a server

    def address(self, host: str, port: int) -> str:
        """Of the page, with its token."""
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}/" + (f"?token={self.token}" if self.token else "")

    def before(self, process_request: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The function that looks at requests first."""

        def process(connection: Any, request: Any) -> Any:
            refused = self.check(request.path, request.headers)
            if refused is not None:
                return connection.respond(http.HTTPStatus.FORBIDDEN, refused)
            answer = process_request(connection, request)
            if answer is not None and self.token:
                kept = f"{_COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
                answer.headers["Set-Cookie"] = kept
            if answer is not None:
                answer.headers["Content-Security-Policy"] = _POLICY
                answer.headers["Referrer-Policy"] = "no-referrer"  # the address may have a token
            return answer

        return process

    def check(self, path: str, headers: Any) -> str | None:
        """Why a request is refused; None: it is answered."""
        host = headers.get("Host", "")
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return "Another page must not use this one.\n"
        if self.token is None:
            name = urlsplit(f"//{host}").hostname or ""
            return None if is_local(name) else "This page is reached as localhost.\n"
        given = parse_qs(urlsplit(path).query).get("token", [""])[-1] or _cookie(headers.get("Cookie", ""))
        return None if hmac.compare_digest(given.encode(), self.token.encode()) else _CLOSED


# Pictures are blobs and data; nothing is read from the network. viser's page is one file with its scripts.
_POLICY = "; ".join(
    [
        "default-src 'self' blob: data: 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'",
        "connect-src 'self' blob: data:",
        "frame-ancestors 'none'",
    ]
)


def _cookie(header: str) -> str:
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == _COOKIE:
            return value
    return ""
