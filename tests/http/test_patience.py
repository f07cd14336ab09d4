"""Connections that keep the server waiting are ended, and counted."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from herenow.http.patience import MAX_HEAD, patient
from herenow.socketio_server import Server
from raw import HANDSHAKE, Raw, client_frame
from slow_link import slow_link
from support import serving, until

PATIENCE_S = 0.3
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def _echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def _some(request: Request) -> Response:
    return Response(b"x" * 3_000_000)


async def _much(request: Request) -> Response:
    return Response(b"x" * 50_000_000)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, Counter[str]]]:
    cut: Counter[str] = Counter()
    app = Starlette(routes=[Route("/", _echo, methods=["GET", "POST"]), Route("/some", _some), Route("/much", _much)])
    http = patient(PATIENCE_S, lambda what: cut.update([what]))
    async with serving(Server().asgi_app(app), http=http) as url:
        yield url, cut


async def _drip(raw: Raw, data: bytes) -> None:
    """A byte at a time, until the server closes."""
    for at in range(len(data)):
        raw.writer.write(data[at : at + 1])
        await asyncio.sleep(PATIENCE_S / 10)
        if raw.reader.at_eof() or raw.writer.is_closing():
            return


@pytest.mark.parametrize("dripped", [b"", b"G" * 100, HEAD + b"X-a: b\r\n" * 50])
async def test_a_head_that_does_not_come_ends_the_connection_however_it_drips(dripped: bytes) -> None:
    async with served() as (url, cut):
        raw = await Raw.open(url)
        dripping = asyncio.create_task(_drip(raw, dripped))
        answer = await raw.ended(PATIENCE_S * 10)
        assert answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")) or not dripped
        assert cut == {"head": 1} or b" 400 " in answer
        dripping.cancel()
        raw.abort()


@pytest.mark.parametrize("head", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_so_does_a_body(head: bytes) -> None:
    async with served() as (url, cut):
        raw = await Raw.open(url)
        await raw.send(HEAD + head)
        dripping = asyncio.create_task(_drip(raw, b"1" * 8))
        answer = await raw.ended(PATIENCE_S * 10)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["temporary"]
        assert cut == {"body": 1}
        dripping.cancel()
        raw.abort()


async def test_a_second_request_is_waited_for_as_long_as_the_first() -> None:
    async with served() as (url, cut):
        raw = await Raw.open(url)
        for _ in range(3):
            await raw.send(HEAD[:20])
            await asyncio.sleep(PATIENCE_S / 2)
            await raw.send(HEAD[20:] + b"Content-Length: 2\r\n\r\nh")
            await asyncio.sleep(PATIENCE_S / 2)
            await raw.send(b"i")
            assert (await raw.reader.readuntil(b"\r\n\r\nhi")).startswith(b"HTTP/1.1 200 ")
        await raw.send(HEAD[:20])
        assert (await raw.ended(PATIENCE_S * 10)).startswith(b"HTTP/1.1 408 ")
        assert cut == {"head": 1}
        raw.abort()


async def test_a_head_that_began_before_an_answer_was_read_is_waited_for_no_longer() -> None:
    """Once the answer had gone, nothing was waited for any more: the head could drip for ever."""
    async with served() as (url, cut):
        raw = await Raw.open(url)
        await raw.send(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(PATIENCE_S / 3)  # by now, more of it is unsent than the server likes
        await raw.send(HEAD[:20])
        await raw.reader.readuntil(b"\r\n\r\n")
        await raw.reader.readexactly(50_000_000)
        dripping = asyncio.create_task(_drip(raw, b"x" * 50))
        await until(lambda: cut == {"head": 1})
        dripping.cancel()
        raw.abort()


async def test_an_answer_that_nobody_reads_is_not_kept() -> None:
    async with served() as (url, cut):
        raw = await Raw.open(url)
        await raw.send(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: cut == {"answer": 1})
        raw.abort()


async def test_an_answer_of_which_something_moves_is_waited_for_however_slowly() -> None:
    """It was cut off when it had not gone whole within the time-out, though the client read all the while."""
    async with served() as (url, cut), slow_link(url, 2_000_000) as link:
        raw = await Raw.open(link.url)
        await raw.send(b"GET /some HTTP/1.1\r\nHost: x\r\n\r\n")
        await raw.reader.readuntil(b"\r\n\r\n")
        await raw.reader.readexactly(3_000_000)
        assert cut == {}
        raw.abort()


async def test_nor_is_one_behind_whose_request_comes_another() -> None:
    """The next request, once it was whole, ended the wait for the answer."""
    async with served() as (url, cut):
        raw = await Raw.open(url)
        await raw.send(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(PATIENCE_S / 3)
        await raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: cut == {"answer": 1})
        raw.abort()


async def test_a_head_that_is_too_large_is_refused() -> None:
    async with served() as (url, cut):
        raw = await Raw.open(url)
        await raw.send(HEAD)
        answer = asyncio.create_task(raw.ended())
        for _ in range(8 * MAX_HEAD // 10_000):
            if answer.done():
                break
            raw.writer.write(b"X-a: " + b"b" * 10_000 + b"\r\n")
            await asyncio.sleep(0.005)
        assert (await answer).startswith(b"HTTP/1.1 431 ") or cut == {"size": 1}
        assert cut == {"size": 1}
        raw.abort()


async def test_a_websocket_is_not_hurried() -> None:
    async with served() as (url, cut):
        raw = await Raw.open(url)
        await raw.send(HANDSHAKE)
        assert b" 101 " in await raw.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(PATIENCE_S * 2)
        await raw.send(client_frame(b"40"))
        async with asyncio.timeout(2):
            assert b"44" in await raw.reader.readuntil(b"namespace")
        assert cut == {}
        raw.abort()


async def test_what_is_no_request_is_answered_in_the_form_of_all_others() -> None:
    async with served() as (url, _):
        raw = await Raw.open(url)
        await raw.send(b"\x16\x03\x01 not a request\r\n\r\n")
        head, _, body = (await raw.ended(PATIENCE_S * 10)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["code"] == "bad_request"
        raw.abort()
