"""Identity providers that do harm, or are hard to please: a real server that answers byte by byte."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.test_tokens import jwk, refused, signed
from herenow.errors import SettingsInvalid
from herenow.gateway.auth import jwks
from herenow.gateway.auth.jwks import Jwks
from herenow.gateway.auth.tokens import Verifier
from herenow.settings import Settings
from herenow.urls import is_safe_url
from support import until

ANOTHER = ec.generate_private_key(ec.SECP256R1())
KEYS = json.dumps({"keys": [jwk("RS256", "1")]}).encode()

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(await reader.readuntil(b"\r\n\r\n"), writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    served = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with served:
        yield f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}/jwks"


def ok(body: bytes = KEYS) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def fetching() -> int:
    """Threads that wait for an answer."""
    return sum(thread.name.startswith("asyncio_") and _is_reading(thread) for thread in threading.enumerate())


def _is_reading(thread: threading.Thread) -> bool:
    frame: Any = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_filename.endswith("gateway/auth/fetching.py"):
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize("dripped", ["head", "body"])
async def test_a_provider_that_drips_a_byte_a_second_is_given_up_in_time(
    dripped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_S", 0.4)
    gone = asyncio.Event()

    async def drip(_: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            head, _, body = ok().partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n" if dripped == "body" else b"")
            for byte in body if dripped == "body" else ok():
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0.05)
        finally:
            gone.set()

    async with answering(drip) as url:
        verifier = Verifier([], Jwks(url))
        began_s = time.monotonic()
        error = await refused(verifier, signed("RS256", kid="1"))
        assert time.monotonic() - began_s < 3
        assert (error.code, error.temporary) == ("internal", True)
        assert 1_000 <= error.body()["retryAfterMs"] <= 5_000
        await until(lambda: fetching() == 0)  # its thread has ended too, and its connection
        await asyncio.wait_for(gone.wait(), 10)


async def test_a_provider_that_answers_50_mb_is_read_to_the_bound_and_no_further() -> None:
    written = 0

    async def pour(_: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _piece in range(800):
            writer.write(b" " * 62_500)
            await writer.drain()
            written += 62_500

    async with answering(pour) as url:
        error = await refused(Verifier([], Jwks(url)), signed("RS256", kid="1"))
        assert (error.code, error.temporary) == ("internal", True)
        await until(lambda: fetching() == 0)
        assert written < 30_000_000  # what the kernel's buffers took


async def test_a_provider_that_wants_a_user_agent_has_one() -> None:
    async def choosy(request: bytes, writer: asyncio.StreamWriter) -> None:
        known = b"\r\nuser-agent: herenow/" in request.lower()
        writer.write(ok() if known else b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with answering(choosy) as url:
        assert (await Verifier([], Jwks(url)).verify(signed("RS256", kid="1"))).user_id == "alice"


async def test_a_key_that_is_not_published_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key id and without one; but a forged token is refused for good, and so is a foreign algorithm."""
    monkeypatch.setattr(jwks, "RETRY_S", 0.0)
    published = [jwk("RS256", "1")]

    async def publish(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(json.dumps({"keys": published}).encode()))

    async with answering(publish) as url:
        verifier = Verifier([], Jwks(url))
        assert (await verifier.verify(signed("RS256", kid="1"))).user_id == "alice"
        for token in (signed("ES256", kid="2"), signed("ES256")):
            error = await refused(verifier, token)
            assert (error.code, error.temporary) == ("unauthorized", True)
            assert error.body()["retryAfterMs"]
        published.append(jwk("ES256", "2"))
        assert (await verifier.verify(signed("ES256"))).user_id == "alice"
        assert (await verifier.verify(signed("ES256", kid="2"))).user_id == "alice"
        forged = signed("RS256", kid="1").rpartition(".")[0] + "." + signed("RS256", kid="1", x=1).rpartition(".")[2]
        assert not (await refused(verifier, forged)).temporary
        error = await refused(verifier, signed("HS256", kid="3", key="x" * 32))
        assert not error.temporary
        assert "RS256" in error.message


async def test_keys_that_were_replaced_without_an_id_are_found() -> None:
    """A provider whose keys have no ids cannot say that there is a new one."""
    published: list[dict[str, Any]] = []

    async def publish(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(json.dumps({"keys": published}).encode()))

    async with answering(publish) as url:
        verifier = Verifier([], Jwks(url))
        old, new = jwk("ES256", "1"), jwk("ES256", "2", ANOTHER)
        published.append({name: value for name, value in old.items() if name != "kid"})
        assert (await verifier.verify(signed("ES256"))).user_id == "alice"
        published[:] = [{name: value for name, value in new.items() if name != "kid"}]
        assert (await verifier.verify(signed("ES256", key=ANOTHER))).user_id == "alice"


async def test_a_redirect_does_not_lead_to_an_open_line() -> None:
    async def redirect(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://keys.example/jwks\r\nContent-Length: 0\r\n\r\n")

    async with answering(redirect) as url:
        assert (await refused(Verifier([], Jwks(url)), signed("RS256", kid="1"))).code == "internal"


def test_an_open_line_is_taken_where_it_is_allowed_by_name() -> None:
    url = "http://login.internal:8080/jwks"
    with pytest.raises(SettingsInvalid, match="jwt_jwks_allow_http"):
        Settings.load(jwt_jwks_url=url)
    assert Settings.load(jwt_jwks_url=url, jwt_jwks_allow_http=True).jwt_jwks_url == url
    assert is_safe_url(url, http=True)
    assert not is_safe_url("file:///etc/passwd", http=True)
