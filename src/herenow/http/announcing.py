"""Keeps a server's state file true, from its start to its end. What cannot be written is logged, and stops nothing."""

import time

from herenow.http.door import Door
from herenow.http.state_file import Phase, StateFile
from herenow.logs import get_logger
from herenow.presence import Presence
from herenow.store.nodes import Node

log = get_logger("herenow.announcing")


class Announced:
    """What the commands are told of one server.

    Args:
        presence: it.
        token: what lets them in.
    """

    def __init__(self, presence: Presence, token: str) -> None:
        self._presence = presence
        self._token = token
        self._file = StateFile(presence.settings)
        self._address = ""
        self._phase: Phase = "starting"
        self._waits_for: str | None = None
        self._has_complained = False
        # Until it owns the store, and has a row there.
        now_ms = time.time_ns() // 1_000_000
        self._node = Node.here(name=presence.settings.node, epoch=0, address="", now_ms=now_ms, lease_ms=0)

    def starting(self, waits_for: str | None = None) -> None:
        """Say that it starts, and what it waits for."""
        if waits_for is None or waits_for != self._waits_for:
            self._write("starting", waits_for)
        self._waits_for = waits_for

    async def serving(self, address: str, door: Door | None) -> None:
        """Say that it may be asked, now that the store is its own: at its address, or at the door."""
        self._node, self._address = self._presence.node, address
        try:
            if door is not None:
                self._address = await door.open()
            self._file.claim()
        except OSError as error:
            log.warning("the commands cannot come in as they should", error=str(error))
        self._write("serving")

    def stopping(self) -> None:
        """Say that it stops. Idempotent."""
        if self._phase == "serving":
            self._write("stopping")

    def stopped(self) -> None:
        """Take the file away."""
        try:
            self._file.remove()
        except OSError as error:
            log.warning("the state file stays behind", error=str(error))

    def _write(self, phase: Phase, waits_for: str | None = None) -> None:
        self._phase = phase
        try:
            self._file.write(self._node, phase, address=self._address, token=self._token, waits_for=waits_for)
        except OSError as error:
            if not self._has_complained:
                log.warning("the commands do not find this server: no state file", error=str(error))
            self._has_complained = True
