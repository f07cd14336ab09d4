"""The fast shell at the socket itself: what is written, in which order, and when the socket is let go."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from herenow.socketio_server import FastWebSocket, Message, Namespace, Reason, Server, ServerSettings, Socket
from herenow.socketio_server.closing import CLOSE_TIMEOUT_MS
from raw import HANDSHAKE, Raw, client_frame, close_code
from support import connect_socket, never_busy_for, receive, serving, until, websocket_url

pytestmark = pytest.mark.every_loop

SEED = int(os.environ.get("HERENOW_SEED", "1"))
CHUNK = "x" * 20_000
MORE_THAN_THE_KERNEL_TAKES = 12_000_000


@pytest.fixture
def server() -> Server:
    return Server(ServerSettings(ping_interval_ms=20_000, ping_timeout_ms=20_000))


@pytest.fixture
def namespace(server: Server) -> Namespace:
    return server.namespace("/")


@pytest.fixture
def ends(namespace: Namespace) -> list[Reason]:
    ends: list[Reason] = []
    namespace.on_disconnect(lambda socket, reason: ends.append(reason))
    return ends


@pytest.fixture
async def url(server: Server) -> AsyncIterator[str]:
    async with serving(server.asgi_app()) as address:
        yield address
    assert server.engine.connections == {}


def link_of(socket: Socket) -> FastWebSocket:
    link = socket.connection.link
    assert isinstance(link, FastWebSocket)
    return link


def server_side(connected: Socket) -> socket.socket:
    """The server's own socket, as its transport knows it."""
    found: socket.socket = link_of(connected)._transport.get_extra_info("socket")
    return found


def is_gone(connected: Socket) -> bool:
    """Whether the server has let its own socket go."""
    return server_side(connected).fileno() == -1


# -- the end of a socket -----------------------------------------------------------------------------------------


class Mute:
    """A peer that reads nothing but its handshake, and never closes."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.socket.connect((host, int(port)))
        self.socket.sendall(HANDSHAKE)
        assert b" 101 " in self.socket.recv(4_096)
        self.socket.sendall(client_frame(b"40"))


@pytest.fixture
async def peer(url: str) -> AsyncIterator[Mute]:
    peer = await asyncio.to_thread(Mute, url)
    yield peer
    peer.socket.close()


@pytest.mark.parametrize(
    ("last_words", "reason"),
    [
        pytest.param(client_frame(b"\x03\xe8", opcode=8), Reason.TRANSPORT_CLOSED, id="close frame"),
        pytest.param(client_frame(b"40", mask=False), Reason.TRANSPORT_ERROR, id="unmasked"),
        pytest.param(client_frame(b"\xff"), Reason.TRANSPORT_ERROR, id="not UTF-8"),
        pytest.param(client_frame(b"?"), Reason.BAD_PACKET, id="bad packet"),
        pytest.param(None, Reason.TRANSPORT_CLOSED, id="half close"),
    ],
)
async def test_a_peer_that_neither_reads_nor_closes_is_cut(
    namespace: Namespace, ends: list[Reason], peer: Mute, last_words: bytes | None, reason: Reason
) -> None:
    """What it left unread held its socket open for ever: a transport that closes waits until all is written."""
    await until(lambda: namespace.sockets)
    [victim] = namespace.sockets.values()
    while victim.emit("chunk", CHUNK):
        pass
    assert link_of(victim)._transport.get_write_buffer_size() > 0
    if last_words is None:
        peer.socket.shutdown(socket.SHUT_WR)
    else:
        peer.socket.send(last_words)
    await until(lambda: ends, 1)
    assert ends == [reason]
    assert not is_gone(victim)
    await until(lambda: is_gone(victim), CLOSE_TIMEOUT_MS / 1000 + 1)
    assert ends == [reason]


async def test_a_close_frame_is_heard_after_ours_and_what_comes_between_is_harmless(
    namespace: Namespace, ends: list[Reason], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer may have sent anything before it heard of the end. Its answer ends the wait for it, well in time."""
    heard: list[str] = []
    namespace.on("late")(lambda socket: heard.append("late"))
    raw = await Raw.upgrade(url)
    await raw.send(client_frame(b"40"))
    await until(lambda: namespace.sockets)
    [victim] = namespace.sockets.values()
    victim.disconnect()
    victim.disconnect(close=True)
    assert await close_code(raw) == 1000
    for frame in (client_frame(b'42["late"]'), client_frame(b"?"), client_frame(b"\0", 2), client_frame(b"p", 9)):
        await raw.send(frame)
    await asyncio.sleep(0.05)
    assert not is_gone(victim)
    await raw.send(client_frame(b"\x03\xe8", opcode=8))
    await raw.ended(CLOSE_TIMEOUT_MS / 1000 / 2)
    assert heard == []
    assert ends == [Reason.SERVER]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    raw.abort()


async def test_who_is_to_come_back_reads_all_whatever_it_still_sends(
    namespace: Namespace, ends: list[Reason], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket with something unread that is closed whole is reset, and takes with it what the peer had not read."""
    namespace.on("leave")(lambda socket: (socket.emit("last words", CHUNK), socket.disconnect(close=True)))
    leave, late = client_frame(b'42["leave"]'), client_frame(b'42["late"]') + client_frame(b"p", 9)
    for at_once in (leave + late, leave + late * 10_000):
        raw = await Raw.upgrade(url)
        await raw.send(client_frame(b"40"))
        await until(lambda: namespace.sockets)
        [victim] = namespace.sockets.values()
        await raw.send(at_once)
        await until(lambda: ends)
        await raw.send(late)
        assert not is_gone(victim), "it waits for the peer's end"
        await raw.send(late)
        assert (await raw.ended()).endswith(CHUNK.encode() + b'"]')
        raw.writer.close()
        await until(lambda: is_gone(victim))  # noqa: B023
        assert ends.pop() is Reason.SENT_AWAY
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


async def test_a_reset_that_a_send_finds_is_reported_once(namespace: Namespace, ends: list[Reason], peer: Mute) -> None:
    """It is found in the middle of a loop over many sockets: told to the caller at once, and to the handlers later."""
    await until(lambda: namespace.sockets)
    [victim] = namespace.sockets.values()
    assert victim.emit("one")
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()
    assert not victim.emit("two")
    assert not victim.emit("three")
    assert ends == []
    await until(lambda: is_gone(victim))
    assert ends == [Reason.TRANSPORT_ERROR]


# -- fairness ----------------------------------------------------------------------------------------------------


async def test_a_flood_of_tiny_frames_leaves_the_others_their_turn(namespace: Namespace, peer: Mute) -> None:
    """Half a million noops that lay in the kernel were once parsed in one go, for seven seconds."""
    last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    namespace.on("last")(lambda socket: last.set_result(None))
    await until(lambda: namespace.sockets)
    flood = client_frame(b"6") * 100_000 + client_frame(b'42["last"]')
    peer.socket.setblocking(False)
    taken = peer.socket.send(flood)  # what the kernel takes lies there before the server reads any
    peer.socket.setblocking(True)
    async with never_busy_for(0.2), asyncio.timeout(20):
        await asyncio.to_thread(peer.socket.sendall, flood[taken:])
        await last


# -- order ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Each direct write: how much of how much the socket took."""
    written: list[tuple[int, int]] = []
    write = os.write

    def note(fd: int, data: bytes) -> int:
        try:
            sent = write(fd, data)
        except BlockingIOError:
            written.append((0, len(data)))
            raise
        written.append((sent, len(data)))
        return sent

    monkeypatch.setattr("herenow.socketio_server.on_uvicorn.websocket.os.write", note)
    return written


async def test_all_that_is_sent_arrives_whole_and_in_order(
    namespace: Namespace, url: str, written: list[tuple[int, int]]
) -> None:
    """Direct writes, whole, in part and refused, between what only the transport may write, at a reader that pauses."""
    rng = random.Random(SEED)
    ws = await connect_socket(url)
    [victim] = namespace.sockets.values()
    server_side(victim).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    sent: list[str] = []
    for number in range(500):
        if number % 50 == 0:
            ws.transport.pause_reading()
        elif number % 50 == 20:
            ws.transport.resume_reading()
        size = rng.choice((0, 100, 3_000, 300_000)) if number else MORE_THAN_THE_KERNEL_TAKES
        text = f'2["numbered",{number},"{"x" * size}"]'
        if number and rng.random() < 0.3:
            victim.connection.push(Message(text))  # as acknowledgements and pings go: through the transport
            sent.append("4" + text)
        elif victim.connection.send(Message(text)):
            sent.append("4" + text)
        if rng.random() < 0.3:
            await asyncio.sleep(rng.choice((0, 0, 0.002)))
    ws.transport.resume_reading()
    assert [await receive(ws) for _ in sent] == sent
    assert any(taken == size for taken, size in written)
    assert any(0 < taken < size for taken, size in written)
    assert victim.emit("last")
    assert await receive(ws) == '42["last"]'
    await ws.close()


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that it signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return file


async def test_under_tls_nothing_is_written_past_it(
    server: Server, namespace: Namespace, certificate: Path, written: list[tuple[int, int]]
) -> None:
    """One byte straight into the socket would end the connection: the client's TLS takes it for a broken record."""
    namespace.on("echo")(lambda socket, *args: args)
    trusting = ssl.create_default_context(cafile=certificate)
    async with (
        serving(server.asgi_app(), ssl_keyfile=certificate, ssl_certfile=certificate) as url,
        connect(websocket_url(url), ssl=trusting, compression=None) as ws,
    ):
        assert url.startswith("https:")
        await ws.recv()
        await ws.send("40")
        await receive(ws)
        [secure] = namespace.sockets.values()
        for number in range(100):
            assert secure.emit("numbered", number, CHUNK[: number * 100])
            await ws.send(f'42{number}["echo",{number}]')
            assert await receive(ws) == f'42["numbered",{number},"{CHUNK[: number * 100]}"]'
            assert await receive(ws) == f"43{number}[{number}]"
        ws.transport.pause_reading()
        chunks = 0
        while secure.emit("chunk", CHUNK):
            chunks += 1
        assert secure.slow
        ws.transport.resume_reading()
        assert [await receive(ws) for _ in range(chunks)] == [f'42["chunk","{CHUNK}"]'] * chunks
    assert written == []


async def test_a_goodbye_behind_the_close_frame_is_heard() -> None:
    """Some clients close the WebSocket first, and write Socket.IO's goodbye behind it."""
    server = Server(ServerSettings())
    namespace, reasons = server.namespace("/"), list[Reason]()
    namespace.on_disconnect(lambda socket, reason: reasons.append(reason))
    async with serving(server.asgi_app()) as url:
        for behind, reason in (
            (b"41", Reason.CLIENT),
            (b"42", Reason.TRANSPORT_CLOSED),
            (b"", Reason.TRANSPORT_CLOSED),
        ):
            raw = await Raw.upgrade(url)
            await raw.send(client_frame(b"40"))
            await raw.reader.readuntil(b'40{"sid"')
            close = client_frame(b"\x03\xe8", opcode=8)
            await raw.send(close + (client_frame(behind) if behind else b""))
            await until(lambda: reasons)
            assert reasons.pop() is reason
            raw.abort()


async def test_at_the_servers_own_stop_too_who_still_sends_reads_all() -> None:
    """uvicorn asks every protocol to end, also those that were ending already: they were closed whole, and reset."""
    server = Server(ServerSettings())
    namespace = server.namespace("/")

    @server.on_stop
    def goodbye() -> None:
        for each in namespace.sockets.values():
            each.emit("goodbye", "x" * MORE_THAN_THE_KERNEL_TAKES)

    peers: list[Raw] = []
    async with serving(server.asgi_app()) as url:
        for _ in range(3):
            raw = await Raw.upgrade(url)
            await raw.send(client_frame(b"40"))
            peers.append(raw)
        await until(lambda: len(namespace.sockets) == 3)
        ends = [asyncio.create_task(_send_and_read_late(raw)) for raw in peers]
    assert all(len(data) > MORE_THAN_THE_KERNEL_TAKES for data in await asyncio.gather(*ends))


async def _send_and_read_late(raw: Raw) -> bytes:
    """Send for a while, also after the server has ended its half, and read only then."""
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            await raw.send(client_frame(b'42["late"]') * 100)
            await asyncio.sleep(0.005)
    data = await raw.ended(10)
    raw.writer.close()
    return data
