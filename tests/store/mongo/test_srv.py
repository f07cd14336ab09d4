"""``mongodb+srv://``: the servers and the options come from a real DNS server, and the users from a real database."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import pytest

import mongod
from herenow.errors import StoreUnavailable
from herenow.store.mongo.store import MongoStore

HOST, NODE = "cluster.users.test", "node.users.test"


class NameServer(asyncio.DatagramProtocol):
    """Answers for one cluster: where its server is, and which options its clients are to take."""

    def __init__(self, port: int) -> None:
        self.records = {
            ("SRV", f"_mongodb._tcp.{HOST}."): f"0 0 {port} {NODE}.",
            ("TXT", f"{HOST}."): '"authSource=admin"',
        }
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        [question] = query.question
        key = (question.rdtype.name, question.name.to_text())
        self.asked.append(key)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        if key in self.records:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", key[0], self.records[key]))
        self._transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def names(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServer]:
    """Let the driver ask a name server of ours while inside."""
    port = int(mongod.shared().url("x").rpartition(":")[2].partition("/")[0])
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(port), local_addr=("127.0.0.1", 0)
    )
    for module in (dns.resolver, dns.asyncresolver):
        resolver = module.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
        monkeypatch.setattr(module, "default_resolver", resolver)
    look_up = socket.getaddrinfo

    def of_this_machine(host: Any, *args: Any, **options: Any) -> Any:
        """Addresses of hosts are the system's to look up, which does not ask our server."""
        return look_up("127.0.0.1" if host == NODE else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", of_this_machine)
    yield server
    transport.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on asyncio's own loop: uvloop looks addresses up by itself."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(scenario())


@pytest.fixture
def users() -> Iterator[Any]:
    with mongod.shared().client() as client:
        yield client[mongod.fresh_database()].users


def test_the_servers_of_a_cluster_come_from_the_dns(users: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    users.insert_one({"_id": "alice"})

    async def scenario() -> None:
        async with names(monkeypatch) as server:
            store = MongoStore(f"mongodb+srv://{HOST}/{users.database.name}?tls=false&appName=test")
            await store.open()
            await store.init()
            assert (await store.counts()).users == 1
            await store.close()
        assert {kind for kind, _ in server.asked} == {"SRV", "TXT"}

    run(scenario)
    assert users.find_one("alice")["isOnline"] is False


def test_a_cluster_that_the_dns_does_not_know_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with names(monkeypatch) as server:
            server.records.clear()
            with pytest.raises(StoreUnavailable, match=r"_mongodb\._tcp"):
                await MongoStore(f"mongodb+srv://{HOST}/x?tls=false").open()

    run(scenario)
