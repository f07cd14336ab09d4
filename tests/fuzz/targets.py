"""What is fuzzed: all that a stranger's bytes go through before anybody has looked at them.

A target takes any bytes. What it raises is a finding: it catches the documented errors itself. The first byte of an
input chooses the target.
"""

import base64
from collections.abc import Callable, Coroutine
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from herenow.gateway import events
from herenow.gateway.auth import keys
from herenow.gateway.auth.tokens import Verifier
from herenow.gateway.events import WireError
from herenow.socketio_server import packets
from herenow.socketio_server.engineio.addresses import Proxies, customer_of
from herenow.socketio_server.engineio.session import Session, SessionSettings, Transport
from herenow.socketio_server.errors import BadPacket, RequestRefused
from herenow.socketio_server.queries import parse_query

SECRET = "a secret of at least thirty-two bytes"

KINDS = (events.WatchPayload, events.Unwatch, events.UsersPayload, events.ClaimPayload, events.Refresh, events.Empty)

Target = Callable[[bytes], None]


def socketio(data: bytes) -> None:
    """Messages of one session, a line each; one that begins with a zero is binary. What is decoded, can be sent."""
    decoder = packets.Decoder(100_000)
    for line in data.split(b"\n"):
        message = line[1:] if line.startswith(b"\0") else line.decode("utf-8", "replace")
        try:
            packet = decoder.feed(message)
        except BadPacket:
            return
        if packet is not None:
            again = packets.Decoder(10_000_000)
            sent = [again.feed(part) for part in packets.encode(packet)]
            assert sent[-1] is not None
            assert sent[-1].type is packet.type
            assert sent[-1].id == packet.id


def polling(data: bytes) -> None:
    """The body of a POST."""
    try:
        for packet in packets.split_payload(data):
            packets.decode_text(packet)
    except BadPacket:
        return


def session(data: bytes) -> None:
    """A session's whole life: each line is an input, its first byte says which."""
    lines = data.split(b"\n")
    transport = Transport.POLLING if lines[0] == b"p" else Transport.WEBSOCKET
    it, now_ms, closed = Session("sid", transport, SessionSettings(random=lambda: 0.5), 0.0), 0.0, 0
    for line in lines[1:]:
        kind, text = line[:1], line[1:].decode("utf-8", "replace")
        happened: list[Any] = []
        match kind:
            case b"r":
                happened = it.receive(text)
            case b"b":
                happened = it.receive(line[1:])
            case b"p":
                happened = it.receive_probe(text)
            case b"o":
                it.begin_probe(now_ms)
            case b"g":
                happened = it.begin_poll()
            case b"s":
                happened = it.begin_post()
            case b"e":
                it.end_post()
            case b"t":
                now_ms += 1_000 * len(line)
                happened = it.advance(now_ms)
            case b"m":
                it.send(text)
            case b"l":
                happened = it.transport_lost()
        closed += sum(type(event).__name__ == "Closed" for event in happened)
        assert closed <= 1
        it.poll_data()
        it.data_to_send()
        it.probe_data_to_send()
        assert it.due_ms() > 0


def payloads(data: bytes) -> None:
    """A client's event: its payload as every kind."""
    try:
        args = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return
    for kind in KINDS:
        try:
            events.decode(kind, tuple(args) if isinstance(args, list) else (args,))
        except WireError as error:
            assert len(error.message) <= 200
            msgspec.json.encode(error.body())


_ED = Ed25519PrivateKey.generate()
_VERIFIER = Verifier([keys.of_secret(SECRET), keys.Key(("EdDSA",), _ED.public_key())])


def tokens(data: bytes) -> None:
    """A token of somebody who has no key."""
    _refused_or_true(data.decode("utf-8", "replace"))


def signed_claims(data: bytes) -> None:
    """A token that is signed well, whatever stands in it: the header before the first line break, the claims after."""
    header, _, claims = data.partition(b"\n")
    head = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims))
    made = jwt.get_algorithm_by_name("HS256").sign(head, SECRET.encode())
    _refused_or_true((head + b"." + base64.urlsafe_b64encode(made).rstrip(b"=")).decode())


def _refused_or_true(token: str) -> None:
    try:
        claims = _finish(_VERIFIER.verify(token))
    except WireError as error:
        assert error.code in ("unauthorized", "token_expired")
        msgspec.json.encode(error.body())
        return
    assert 1 <= len(claims.sub) <= 128
    assert claims.sub.isprintable() or all(letter >= " " for letter in claims.sub)


def _finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits: there is no key set to be fetched."""
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits for something")


_TRUSTED = Proxies(["127.0.0.0/8", "10.0.0.0/8", "::1"])


def requests(data: bytes) -> None:
    """A query and a list of addresses behind a proxy."""
    query, _, forwarded = data.decode("latin-1").partition("\n")
    try:
        parse_query(query)
    except RequestRefused:
        pass
    address = _TRUSTED.client("127.0.0.1", [(b"x-forwarded-for", forwarded.encode("latin-1"))])
    customer_of(address)
    _TRUSTED.is_here("127.0.0.1", [(b"forwarded", forwarded.encode("latin-1"))])


TARGETS: tuple[Target, ...] = (socketio, polling, session, payloads, tokens, signed_claims, requests)


def one_input(data: bytes) -> None:
    """Give an input to the target that its first byte chooses."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])
