"""Keeps a server's state file true, from its start to its end. What cannot be written is logged, and stops nothing."""

from herenow.http.door import Door
from herenow.http.state_file import Phase, StateFile
from herenow.logs import get_logger
from herenow.service import Service
from herenow.store.nodes import Node
from herenow.times import unix_ms

log = get_logger("herenow.announcing")


class Announced:
    """What the commands are told of one server.

    Args:
        presence: it.
        token: what lets them in.
    """

    def __init__(self, presence: Service, token: str) -> None:
        self._presence = presence
        self._token = token
        self._file = StateFile(presence.settings)
        self._address = ""
        self._phase: Phase = "starting"
        self._waits_for: str | None = None
        self._has_complained = False
        # Until it owns the store, and has a row there.
        now_ms = unix_ms()
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

    def may_be_renewed(self) -> None:
        """Say from now on that SIGHUP renews it."""
        self._file.is_renewed_by_signal = True

    def not_renewed(self, reason: str | None) -> None:
        """Say why it was not renewed; ``None``: it is being tried."""
        self._write("serving", reason)

    def renewing(self) -> None:
        """Say that it starts anew; the new code takes this file away."""
        self._write("starting")

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
