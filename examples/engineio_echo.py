"""An Engine.IO server that echoes every message, text and binary, at /engine.io/.

    python examples/engineio_echo.py --port 3000

The published test suite of Engine.IO v4 can be run against it.
"""

from echo_server import parse_options, run

from herenow.socketio_server import Connection, Engine, EngineApp, EngineSettings, Message, Reason


class Echo:
    """The application: it only answers."""

    def opened(self, connection: Connection) -> None:
        """Nothing to do."""

    def received(self, connection: Connection, data: str | bytes) -> None:
        """Send it back."""
        connection.push(Message(data))

    def closed(self, connection: Connection, reason: Reason) -> None:
        """Nothing to do."""

    def slow(self, connection: Connection) -> None:
        """Read nothing more that would have to be echoed."""
        connection.hold()

    def drained(self, connection: Connection) -> None:
        """Read again."""
        connection.release()

    def stopping(self) -> None:
        """Nothing to do."""

    def due(self, connection: Connection) -> None:
        """Nothing to do: no timer is set."""


if __name__ == "__main__":
    options = parse_options(__doc__)
    settings = EngineSettings(
        path="/engine.io/",
        origins="*",
        ping_interval_ms=options.ping_interval_ms,
        ping_timeout_ms=options.ping_timeout_ms,
        max_payload=options.max_payload,
    )
    run(EngineApp(Engine(Echo(), settings)), options)
