"""The load: one process with N websockets, which receives what the server sends and checks every byte of it.

``python -m benchmarks.load PORT...`` takes orders on standard input (``orders.py``) until that ends. It offers no
compression, answers Engine.IO pings, and counts deliveries per connection: one too few, one too many, one altered
byte or one closed connection fails the order.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec
import uvloop

# picows carries its own types, but only the dependency group `bench` installs it. Where it is not installed (`make
# test`), its names are Any to mypy, which then objects to the import and to the subclass below.
from picows import (  # type: ignore[import-not-found, unused-ignore]
    WSCloseCode,
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

from benchmarks import wire
from benchmarks.arrivals import Arrivals
from benchmarks.crowd import Crowd, CrowdError
from benchmarks.joining import Storm
from benchmarks.orders import Order, Reply

CONNECTS_AT_ONCE = 100
"""Connections in their handshake at any moment: a crowd, but shorter than any peer's accept queue."""

STALL_S = 15.0
"""How long the load waits for a next delivery, or for one handshake, before it gives up."""

SURPLUS_S = 0.05
"""How long the load listens on after the last delivery, for one that should not come."""


TEXT = WSMsgType.TEXT


class LoadError(Exception):
    """The server did not do what was asked; the text says how."""


class Connection(WSListener):  # type: ignore[misc, unused-ignore]  # see the import
    """One websocket of the load."""

    __slots__ = ("greeted", "load", "number", "received", "transport")

    def __init__(self, load: "Load", number: int) -> None:
        super().__init__()
        self.load = load
        self.number = number
        self.received = load.rounds_expected  # of those before its time
        self.transport: WSTransport | None = None
        self.greeted = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the transport; the server speaks first."""
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Count a right delivery, which is almost every frame; handle the rest apart."""
        payload = frame.get_payload_as_bytes()
        if payload == wire.EVENT_PACKET and frame.msg_type == TEXT:
            self.received += 1
            self.load.delivered()
        else:
            self.on_other_frame(transport, frame.msg_type, payload)

    def on_other_frame(self, transport: WSTransport, kind: WSMsgType, payload: bytes) -> None:
        """Go on with the handshake, answer a ping; whatever else comes is wrong."""
        if kind == TEXT and payload.startswith(wire.ENGINE_OPEN):
            transport.send(TEXT, wire.CONNECT)
        elif kind == TEXT and payload.startswith(wire.CONNECT) and not self.greeted.done():
            self.greeted.set_result(None)
        elif kind == TEXT and payload == wire.ENGINE_PING:
            transport.send(TEXT, wire.ENGINE_PONG)
        elif kind == WSMsgType.CLOSE:
            transport.disconnect()  # on_ws_disconnected decides whether that was wanted
        else:
            self.fail(f"received the {WSMsgType(kind).name} frame {payload[:80]!r}")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Report a connection that the server ended."""
        self.transport = None
        if not self.load.closing:
            self.fail("was closed by the server")

    def fail(self, what: str) -> None:
        """Fail the order under way, or the next one."""
        error = LoadError(f"connection {self.number} {what}")
        self.load.fail(error)
        if not self.greeted.done():
            self.greeted.set_exception(error)
            self.greeted.exception()  # whoever awaits it sees it still; nobody may, and that is no second error


class Load:
    """All connections to one server, and the orders that can be given."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.urls = [f"ws://127.0.0.1:{port}{wire.PATH}" for port in ports]
        self.url = self.urls[0]
        self.connections: list[Connection] = []
        self.closing = False
        self.rounds_expected = 0
        self.missing = 0
        self.changed = asyncio.Event()
        self.error: LoadError | None = None
        self.arrivals: Arrivals | None = None

    def delivered(self) -> None:
        """Take note of one delivery, and wake ``fanout`` at the last one."""
        self.missing -= 1
        if self.missing == 0:
            self.changed.set()

    def fail(self, error: LoadError) -> None:
        """Keep the first error and wake ``fanout``."""
        self.error = self.error or error
        self.changed.set()

    def check(self) -> None:
        """Raise what went wrong so far, a count that is not exact included."""
        if self.error:
            raise self.error
        for connection in self.connections:
            if connection.received != self.rounds_expected:
                raise LoadError(
                    f"connection {connection.number} received {connection.received} deliveries "
                    f"instead of {self.rounds_expected}"
                )

    async def connect(self, count: int) -> float:
        """Open ``count`` connections, ``CONNECTS_AT_ONCE`` at a time, and return the wall time in seconds."""
        numbers = iter(range(len(self.connections), len(self.connections) + count))
        started_s = time.perf_counter()
        await asyncio.gather(*(self._connect_each(numbers) for _ in range(min(count, CONNECTS_AT_ONCE))))
        wall_s = time.perf_counter() - started_s
        self.check()
        return wall_s

    async def _connect_each(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            connection = Connection(self, number)
            try:
                async with asyncio.timeout(STALL_S):
                    # The connection itself keeps what ws_connect returns.
                    await ws_connect(lambda made=connection: made, self.url, websocket_handshake_timeout=None)
                    await connection.greeted
            except TimeoutError:
                raise LoadError(f"connection {number} was not greeted within {STALL_S:g} s") from None
            self.connections.append(connection)

    async def fanout(self, rounds: int) -> float:
        """Ask for ``rounds`` events to everybody, check that all came, and return the wall time in seconds."""
        self.check()
        control = self.connections[0].transport
        if control is None:
            raise LoadError("there is no connection left to give the order on")
        self.missing = rounds * len(self.connections)
        self.rounds_expected += rounds
        self.changed.clear()
        started_s = time.perf_counter()
        control.send(TEXT, wire.go_packet(rounds))
        await self._wait_for_all()
        wall_s = time.perf_counter() - started_s
        await asyncio.sleep(SURPLUS_S)
        self.check()
        return wall_s

    async def _wait_for_all(self) -> None:
        """Return at the last delivery or at an error; raise when nothing more comes."""
        while not self.changed.is_set():
            missing = self.missing
            try:
                async with asyncio.timeout(STALL_S):
                    await self.changed.wait()
            except TimeoutError:
                if self.missing == missing:
                    raise LoadError(
                        f"no delivery for {STALL_S:g} s, {missing} of "
                        f"{len(self.connections) * self.rounds_expected} are missing"
                    ) from None

    async def close(self) -> float:
        """Close every connection cleanly and return the wall time in seconds."""
        self.check()
        self.closing = True
        started_s = time.perf_counter()
        transports = [connection.transport for connection in self.connections if connection.transport is not None]
        for transport in transports:
            transport.send_close(WSCloseCode.OK)
        try:
            async with asyncio.timeout(STALL_S):
                await asyncio.gather(*(transport.wait_disconnected() for transport in transports))
        except TimeoutError:
            raise LoadError(f"not every connection was closed within {STALL_S:g} s") from None
        self.connections.clear()
        self.rounds_expected = 0
        self.closing = False
        return time.perf_counter() - started_s


async def obey(load: Load, crowd: Crowd, order: Order) -> Reply:
    """Carry out one order; what the server did wrong becomes part of the reply."""
    started_s, began_s = time.process_time(), time.perf_counter()
    figures: dict[str, float] = {}
    try:
        match order.do:
            case "connect":
                wall_s = await load.connect(order.count)
            case "fanout":
                wall_s = await load.fanout(order.count)
            case "close":
                wall_s = await load.close() + await crowd.leave()
            case "users":
                wall_s = await crowd.enter(
                    order.count,
                    contacts=order.contacts,
                    among=order.among,
                    audiences=order.audiences,
                    rate=order.rate,
                    spread=order.spread,
                )
            case "meters":
                wall_s = await crowd.meters(on=order.count > 0)
            case "changes":
                wall_s = await crowd.changes(order.count, order.among)
            case "claims":
                figures = await crowd.claims(order.rate, order.seconds, order.contacts)
                wall_s = time.perf_counter() - began_s
            case "expect":
                load.arrivals = Arrivals(
                    crowd, order.rate, order.seconds, order.contacts, len(load.urls) - 1 if order.spread else 0
                )
                await load.arrivals.prepare()
                wall_s = time.perf_counter() - began_s
            case "arrivals":
                if load.arrivals is None:
                    raise LoadError("nobody is expected: order `expect` first")
                figures = await load.arrivals.run()
                wall_s = time.perf_counter() - began_s
            case "everybody":
                wall_s = await crowd.enter_to_see_all(order.count, order.among)
            case "join":
                wall_s = await crowd.join(order.user)
            case "storm":
                storm = Storm(load.urls, order.count)
                wall_s, error = await storm.run()
                cpu_s = time.process_time() - started_s
                figures = {"full": storm.full}
                return Reply(
                    wall_s=wall_s, cpu_s=cpu_s, frames=storm.frames, bytes=storm.bytes, figures=figures, error=error
                )
    except (LoadError, CrowdError, WSError, OSError) as error:
        return Reply(error=str(error) or type(error).__name__)
    return Reply(wall_s=wall_s, cpu_s=time.process_time() - started_s, figures=figures)


async def main(ports: Sequence[int]) -> None:
    """Take orders until standard input ends."""
    load, crowd = Load(ports), Crowd(ports)
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        reply = await obey(load, crowd, msgspec.json.decode(line, type=Order))
        sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main([int(port) for port in sys.argv[1:]]))
