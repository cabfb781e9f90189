"""Limits of what a browser sends, kept while it is being sent: viser holds uploads in memory and has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stp_jax.files import size_text


class Guard:
    """Ends uploads of one client that are larger than their button allows.

    Args:
      client: of viser.
      refuse: is called with what is to be said.
    """

    def __init__(self, client: Any, refuse: Callable[[str], None]):
        from viser import _messages

        self._most: dict[str, tuple[int, str]] = {}
        self._gui, self._refuse = client.gui, refuse
        handlers = client.gui._websock_interface
        handlers.register_handler(_messages.FileTransferStartUpload, self._begins)
        handlers.register_handler(_messages.FileTransferPart, self._goes_on)

    def limit(self, button: Any, most: int, label: str) -> None:
        self._most[button._impl.uuid] = most, label

    def _begins(self, _client: int, message: Any) -> None:
        """After viser's own handler, which has begun to keep the parts."""
        most, label = self._most.get(message.source_component_uuid, (0, "upload"))
        if message.size_bytes > most or message.part_count > most:
            self._drop(message.transfer_uuid)
            sizes = f"{size_text(message.size_bytes)} are too many; at most {size_text(most)} are taken"
            self._refuse(f"{label}: {message.filename}: {sizes}.")

    def _goes_on(self, _client: int, message: Any) -> None:
        held = self._gui._current_file_upload_states.get(message.transfer_uuid)
        if held is not None and held["transferred_bytes"] > held["total_bytes"]:
            self._drop(message.transfer_uuid)

    def _drop(self, transfer: str) -> None:
        self._gui._current_file_upload_states.pop(transfer, None)
