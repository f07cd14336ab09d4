"""Where a client comes from, behind proxies that may be trusted and clients that may not; and how many may come."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from herenow.socketio_server import Server, ServerSettings, Socket
from herenow.socketio_server.engineio.addresses import BehindProxies, Proxies, customer_of
from support import Poller, Shell, http_client, serving, until, websocket_url

TRUSTED = Proxies(["10.0.0.0/8", "127.0.0.1", "2001:db8:1::/48"])


def client_address(peer: str, forwarded: str | None) -> str:
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode("latin-1", "replace"))]
    return TRUSTED.client(peer, headers)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),  # a stranger's word
        ("10.1.2.3", None, "10.1.2.3"),
        ("10.1.2.3", "198.51.100.7", "198.51.100.7"),
        ("10.1.2.3", "1.1.1.1, 198.51.100.7", "198.51.100.7"),  # what the client made up comes first
        ("10.1.2.3", "1.1.1.1, 198.51.100.7, 10.9.9.9", "198.51.100.7"),  # two proxies of ours
        ("10.1.2.3", "10.7.7.7, 10.9.9.9", "10.7.7.7"),  # a client of our own network
        ("10.1.2.3", "198.51.100.7:4711", "198.51.100.7"),
        ("10.1.2.3", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.1.2.3", "2001:db8::7", "2001:db8::7"),
        ("2001:db8:1::5", "198.51.100.7", "198.51.100.7"),
        ("::ffff:10.1.2.3", "198.51.100.7", "198.51.100.7"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "unknown", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.7, _hidden", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.7,", "10.1.2.3"),
        ("not an address", "198.51.100.7", "not an address"),
    ],
)
def test_the_word_of_a_trusted_proxy_counts_and_no_other(peer: str, forwarded: str | None, client: str) -> None:
    assert client_address(peer, forwarded) == client


ENTRIES = st.sampled_from(["10.1.1.1", "127.0.0.1", "192.0.2.1", "2001:db8:1::1", "rubbish", "", "[2001:db8::7]:1"])


@given(st.text(), st.text() | st.lists(ENTRIES, max_size=5).map(", ".join))
def test_any_header_gives_some_address(peer: str, forwarded: str) -> None:
    assert isinstance(client_address(peer, forwarded), str)
    client = client_address("10.0.0.1", forwarded)
    assert client
    assert client_address(client, forwarded) == client  # a shell behind a middleware asks again
    customer_of(forwarded)


@pytest.mark.parametrize(
    ("address", "customer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:5:6:7::8", "2001:db8:5:6::/64"),
        ("2001:db8:5:6:ffff::1", "2001:db8:5:6::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a socket's name", "a socket's name"),
    ],
)
def test_sessions_are_counted_by_customer(address: str, customer: str | None) -> None:
    assert customer_of(address) == customer


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="my proxy"):
        ServerSettings(trusted_proxies=["my proxy"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "said", "is_secure"),
    [
        ("192.0.2.1", None, "https", None),  # a stranger's word
        ("10.1.2.3", None, None, None),
        ("10.1.2.3", None, "https", True),
        ("10.1.2.3", "198.51.100.7", "wss", True),
        ("10.1.2.3", "198.51.100.7", "http", False),
        ("10.1.2.3", "198.51.100.7", "https, http", False),  # what the client made up comes first
        ("10.1.2.3", "198.51.100.7, 10.9.9.9", "https, http", True),  # TLS up to the first of two proxies of ours
        ("10.1.2.3", "198.51.100.7, 10.9.9.9", "https", True),
        ("10.1.2.3", "198.51.100.7", "ftp", None),
        ("10.1.2.3", "198.51.100.7", "", None),
    ],
)
def test_the_scheme_is_that_of_the_clients_own_proxy(
    peer: str, forwarded: str | None, said: str | None, is_secure: bool | None
) -> None:
    headers = [(b"x-forwarded-for", forwarded), (b"x-forwarded-proto", said)]
    assert (
        TRUSTED.is_secure(peer, [(name, value.encode()) for name, value in headers if value is not None]) is is_secure
    )


@pytest.mark.parametrize(
    ("peer", "headers", "is_here"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        (None, {}, True),  # a Unix socket
        ("192.0.2.1", {}, False),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, True),  # a developer's own proxy, of a bundler
        ("127.0.0.1", {"x-forwarded-for": "::ffff:127.0.0.1, ::1"}, True),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.9"}, False),  # a tunnel's
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1, 203.0.113.9"}, False),  # and its client made the first up
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.9, 127.0.0.1"}, False),
        ("127.0.0.1", {"x-forwarded-for": "unknown"}, False),
        (None, {"x-forwarded-for": "203.0.113.9"}, False),
        ("127.0.0.1", {"x-real-ip": "203.0.113.9"}, False),
        ("127.0.0.1", {"forwarded": "for=203.0.113.9;proto=https"}, False),
        ("127.0.0.1", {"forwarded": 'For="[2001:db8::7]:4711"'}, False),
        ("127.0.0.1", {"forwarded": "proto=https"}, False),
        ("127.0.0.1", {"forwarded": "by=x; for=127.0.0.1, for=203.0.113.9"}, False),
        ("127.0.0.1", {"forwarded": 'by=x; for="[::1]:80"'}, True),
    ],
)
@pytest.mark.parametrize("trusted", [(), ("127.0.0.0/8", "::1")])
def test_what_a_proxy_on_this_machine_brings_from_elsewhere_is_not_from_here(
    peer: str | None, headers: dict[str, str], trusted: tuple[str, ...], is_here: bool
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert Proxies(trusted).is_here(peer, raw) is is_here


WAYS = ("websocket fast", "websocket ASGI", "polling", "HTTP")
HEADERS: dict[str, tuple[dict[str, str], str]] = {
    "none": ({}, "127.0.0.1"),
    "one": ({"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}, "203.0.113.9"),
    "a spoofed chain": ({"X-Forwarded-For": "1.1.1.1, 203.0.113.9, 127.0.0.2"}, "203.0.113.9"),
    "IPv6": ({"X-Forwarded-For": "2001:db8::7"}, "2001:db8::7"),
    "a port": ({"X-Forwarded-For": "203.0.113.9:4711"}, "203.0.113.9"),
    "IPv6 and a port": ({"X-Forwarded-For": "[2001:db8::7]:4711"}, "2001:db8::7"),
    "rubbish": ({"X-Forwarded-For": "unknown, _hidden"}, "127.0.0.1"),
    "empty": ({"X-Forwarded-For": ""}, "127.0.0.1"),
}
"""What a proxy at 127.0.0.1 adds, and who the client is if it is trusted."""


@pytest.mark.parametrize("trusted", [(), ("127.0.0.0/8",)], ids=["nobody trusted", "trusted"])
async def test_every_way_in_knows_the_same_address(trusted: tuple[str, ...]) -> None:
    """As it is put together for ``herenow serve``; polling believed uvicorn's own rule, and WebSocket ours."""
    server = Server(ServerSettings(trusted_proxies=trusted))
    seen: list[str] = []

    @server.namespace("/").on_connect
    def connected(socket: Socket, auth: object) -> None:
        assert socket.handshake.address is not None
        seen.append(socket.handshake.address[0])

    async def echo(request: Request) -> PlainTextResponse:
        assert request.client is not None
        seen.append(request.client.host)
        return PlainTextResponse(str(request.base_url))

    app = BehindProxies(server.asgi_app(Starlette(routes=[Route("/echo", echo)])), Proxies(trusted))

    async def by(way: str, headers: dict[str, str], fast: str, slow: str) -> None:
        if way == "HTTP":
            async with http_client() as http:
                base = (await http.get(f"{fast}/echo", headers=headers)).text
            assert base.startswith("https:" if trusted and "X-Forwarded-Proto" in headers else "http:")
        elif way == "polling":
            async with Poller(fast, headers=headers) as poller:
                await poller.open()
                await poller.post("40")
                await poller.post("1")
        else:
            async with connect(websocket_url(fast if "fast" in way else slow), additional_headers=headers) as ws:
                await ws.recv()
                await ws.send("40")
                await ws.recv()

    async with (
        serving(app, "fast", proxy_headers=False) as fast,
        serving(app, "asgi", proxy_headers=False, lifespan="off") as slow,
    ):
        for name, (headers, client) in HEADERS.items():
            for way in WAYS:
                await by(way, headers, fast, slow)
            assert seen == [client if trusted else "127.0.0.1"] * len(WAYS), name
            seen.clear()


@pytest.fixture(params=["fast", "asgi"])
def shell(request: pytest.FixtureRequest) -> Shell:
    return request.param  # type: ignore[no-any-return]


async def test_an_address_has_so_many_sessions_and_no_more(shell: Shell) -> None:
    server = Server(ServerSettings(max_sessions_per_address=3))
    seen: list[str] = []

    @server.namespace("/").on_connect
    def connected(socket: Socket, auth: object) -> None:
        assert socket.handshake.address is not None
        seen.append(socket.handshake.address[0])

    async with serving(server.asgi_app(), shell, proxy_headers=False) as url:
        address = url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"

        async def open_from(client: str) -> object:
            ws = await connect(address, additional_headers={"X-Forwarded-For": client})
            await ws.recv()
            await ws.send("40")
            await ws.recv()
            return ws

        mine = [await open_from("198.51.100.7") for _ in range(3)]
        with pytest.raises(InvalidStatus) as refused:
            await open_from("198.51.100.7")
        assert refused.value.response.status_code == (429 if shell == "fast" else 403)  # ASGI's close knows no other
        async with http_client(base_url=url) as http:
            polling = "/socket.io/?EIO=4&transport=polling"
            answer = await http.get(polling, headers={"X-Forwarded-For": "198.51.100.7"})
            assert (answer.status_code, answer.json()["code"]) == (429, 3)
        others = [await open_from("198.51.100.8"), await open_from("2001:db8::1")]
        assert seen == ["198.51.100.7"] * 3 + ["198.51.100.8", "2001:db8::1"]
        for ws in mine[:1]:
            await ws.close()  # type: ignore[attr-defined]
        await until(lambda: len(server.engine.connections) == 4)
        again = await open_from("198.51.100.7")
        local = await asyncio.gather(*(connect(address) for _ in range(6)))  # this machine's own do not count
        for ws in (*mine[1:], *others, again, *local):
            await ws.close()  # type: ignore[attr-defined]
        await until(lambda: not server.engine.connections)
    assert server.engine._sessions_of == {}
