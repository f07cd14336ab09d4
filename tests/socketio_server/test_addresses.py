"""Where a client comes from, behind proxies that may be trusted and clients that may not; and how many may come."""

import asyncio

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from herenow.socketio_server import Server, ServerSettings, Socket
from herenow.socketio_server.addresses import client_address, customer_of, parse_networks
from support import Shell, serving, until

TRUSTED = parse_networks(["10.0.0.0/8", "127.0.0.1", "2001:db8:1::/48"])


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
    assert client_address(peer, forwarded, TRUSTED) == client


@given(st.text(), st.text())
def test_any_header_gives_some_address(peer: str, forwarded: str) -> None:
    assert isinstance(client_address(peer, forwarded, TRUSTED), str)
    assert client_address("10.0.0.1", forwarded, TRUSTED)
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
        async with httpx.AsyncClient(base_url=url) as http:
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
