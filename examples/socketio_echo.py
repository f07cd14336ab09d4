"""A Socket.IO server at /socket.io/ with the namespaces / and /custom, which echoes.

    python examples/socketio_echo.py --port 3000

On connect it emits ``auth`` with the CONNECT payload; ``message`` comes back as ``message-back`` with the same
arguments; ``message-with-ack`` is acknowledged with them. The published test suite of Socket.IO v5 can be run
against it.
"""

from typing import Any

from echo_server import parse_options, run

from herenow.socketio_server import Namespace, Server, ServerSettings, Socket


def echo(namespace: Namespace) -> None:
    """Register the handlers in a namespace."""

    @namespace.on_connect
    def connected(socket: Socket, auth: dict[str, Any] | None) -> None:
        socket.emit("auth", auth or {})

    @namespace.on("message")
    def message(socket: Socket, *args: Any) -> None:
        socket.emit("message-back", *args)

    @namespace.on("message-with-ack")
    def message_with_ack(socket: Socket, *args: Any) -> tuple[Any, ...]:
        return args


if __name__ == "__main__":
    options = parse_options(__doc__)
    server = Server(
        ServerSettings(
            origins="*",
            ping_interval_ms=options.ping_interval_ms,
            ping_timeout_ms=options.ping_timeout_ms,
            max_payload=options.max_payload,
            connect_timeout_ms=options.connect_timeout_ms,
        )
    )
    echo(server.namespace("/"))
    echo(server.namespace("/custom"))
    run(server.asgi_app(), options)
