"""The server: viser behind the gate, a page for each tab, one process that samples."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import socket
import threading
import warnings
from pathlib import Path
from typing import Any

from stp_jax.controls.keyframes import Keyframes
from stp_jax.edit.clips import Source
from stp_jax.edit.closed import ClosedTabs
from stp_jax.edit.gate import Gate
from stp_jax.edit.page import Page
from stp_jax.edit.worker import Worker
from stp_jax.errors import InputError

MOST_TABS = 8


def _warm_words(source: Source) -> list[str]:
    """Of a job whose video nobody needs: the source as it is."""
    return [word for word in source.words("", True) if not word.startswith(("--keyframes", "--distance"))]


class App:
    """A server that runs.

    Args:
      source, keys: what each tab begins with.
      out: the folder of takes and uploads, made when it is needed.

    Raises:
      InputError: the port is in use, the extra is not installed.
    """

    def __init__(self, source: Source, keys: Keyframes | None, host: str, port: int, out: Path):
        self.source, self.keys, self.out = source, keys, out
        self.gate = Gate(host)
        self.pages: dict[int, Page] = {}
        self.closed_tabs = ClosedTabs()
        self._lock = threading.Lock()
        self._check_port(host, port)
        self.server = self._serve(host, port)
        self._first_view(source.distance)
        self.worker = Worker()
        # Loads and compiles while someone looks around: the first preview of a tab does not wait for it.
        self.worker.submit(self, _warm_words(source), lambda report: None, draft=True)
        self.port = self.server.get_port()
        self.address = self.gate.address("127.0.0.1" if host in ("0.0.0.0", "::") else host, self.port)
        self.server.on_client_connect(self._opened)
        self.server.on_client_disconnect(self._closed)

    @staticmethod
    def check_installed() -> None:
        """Raises `InputError` where the extra `editor` is not installed."""
        if importlib.util.find_spec("viser") is None:
            raise InputError("The editor needs viser, of the extra `editor`: pip install 'stp-jax[editor]'")

    @staticmethod
    def _check_port(host: str, port: int) -> None:
        """viser would take another port in silence."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                reason = error.strerror or error
                raise InputError(f"--host {host} --port {port}: {reason}. Give another --port.") from None

    def _serve(self, host: str, port: int) -> Any:
        """viser, whose requests pass the gate first."""
        self.check_installed()
        import viser
        import websockets.asyncio.server as library

        serve = library.serve

        def guarded(*args: Any, **kwargs: Any) -> Any:
            kwargs["process_request"] = self.gate.before(kwargs["process_request"])
            self.gate.stands = True
            return serve(*args, **kwargs)

        # A tab may close while an edit of it is done, which goes on.
        warnings.filterwarnings("ignore", "Queued a .* on a closed connection", UserWarning)
        library.serve = guarded  # type: ignore[assignment, misc]
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints a table of its own
                made = viser.ViserServer(host=host, port=port, verbose=False)
        finally:
            library.serve = serve  # type: ignore[misc]
        made._websock_server.unregister_handler(viser._messages.ShareUrlRequest)  # it would use the network
        if not self.gate.stands:
            made.stop()
            raise InputError("This version of viser cannot be guarded: pip install 'viser>=1.1.1,<1.2'")
        return made

    def _first_view(self, away: float) -> None:
        """Where tabs look from at first: behind the source's camera, beside and above it."""
        self.server.scene.set_up_direction("-y")
        camera = self.server.initial_camera
        camera.up = (0.0, -1.0, 0.0)
        camera.position = (-0.9 * away, -0.55 * away, -0.75 * away)
        camera.look_at = (0.0, 0.0, 0.7 * away)

    def new_folder(self, name: str) -> Path:
        """A new folder `name_1`, `name_2`, ... for a take or an upload."""
        self.out.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = self.out / f"{name}_{number}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
        raise AssertionError

    def _opened(self, client: Any) -> None:
        with self._lock:
            if len(self.pages) >= MOST_TABS:
                client.add_notification(
                    "Not possible",
                    f"{MOST_TABS} tabs are open: close one, and load this page again.",
                    color="red",
                )
                return
            self.pages[client.client_id] = Page(client, self, self.source, self.keys)
        if client.client_id not in self.server.get_clients():  # it has gone meanwhile
            self._closed(client)

    def _closed(self, client: Any) -> None:
        with self._lock:
            page = self.pages.pop(client.client_id, None)
        if page is not None:
            page.close()
            self.offer()

    def offer(self) -> None:
        """Offers the work of closed tabs in those that are open, in a thread: each has its own lock."""

        def show() -> None:
            for page in list(self.pages.values()):
                page.act(page.closed_tabs.show)

        threading.Thread(target=show, daemon=True).start()

    def close(self) -> None:
        for page in list(self.pages.values()):
            page.close()
        self.worker.close()
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()
