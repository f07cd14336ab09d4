"""Who is online is decided first and told then: whatever fails in the telling, the state is right, and all others hear.

And a connect that fails half-way leaves nobody behind, nor does one that the server's end overtakes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from clients import Client, Refused
from herenow import Identity, Presence
from herenow.errors import NotStarted
from herenow.gateway.handlers import Gateway
from herenow.gateway.rollcall import RollCall
from herenow.model import Change, Closing
from herenow.registry.base import Batch
from herenow.socketio_server import Socket
from support import connect_socket, serving, until
from wired import mount_wire


class Served:
    def __init__(self, url: str, presence: Presence, gateway: Gateway) -> None:
        self.url, self.presence, self.gateway = url, presence, gateway

    @property
    def sockets(self) -> dict[str, Socket]:
        return self.gateway.server.namespace("/").sockets

    async def connections(self) -> int:
        return (await self.presence.stats()).connections

    def failures(self, part: str) -> float:
        """How often a part has failed."""
        count: float = self.presence.meters.task_failures.labels(part)._value.get()
        return count


@asynccontextmanager
async def served(directory: Path, **settings: Any) -> AsyncIterator[Served]:
    given = {"dev": True, "offline_within_s": 0.5, **settings}
    presence = Presence(f"sqlite:///{directory}/app.db", **given)
    app = FastAPI()
    gateway = mount_wire(presence, app)
    async with serving(app) as url:
        yield Served(url, presence, gateway)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as server:
        yield server


def fail(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a fault")


# -- state before telling ----------------------------------------------------------------------------------------


class _BrokenHandler(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise OSError(28, "No space left on device")


@contextmanager
def broken_log(server: Served) -> Iterator[None]:
    logger, handler = logging.getLogger("herenow"), _BrokenHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)


@contextmanager
def broken_meters(server: Served) -> Iterator[None]:
    meters = server.presence.meters
    with pytest.MonkeyPatch.context() as patch:
        for meter in (meters.disconnects, meters.promise):
            patch.setattr(meter, "labels", fail)
        for meter in (meters.connects, meters.frames, *meters.changes_by.values(), meters.task_failures):
            patch.setattr(meter, "inc", fail)
        yield


@contextmanager
def broken_hooks(server: Served) -> Iterator[None]:
    server.presence.on_change(fail)
    server.presence.on_change(lambda change: asyncio.sleep(0.05))
    yield


@contextmanager
def broken_subscriber(server: Served) -> Iterator[None]:
    def subscriber(batch: Batch) -> None:
        raise ZeroDivisionError

    registry = server.presence.registry
    subscribers = registry._subscribers._all  # type: ignore[attr-defined]
    subscribers.insert(0, subscriber)
    yield
    subscribers.remove(subscriber)


@contextmanager
def broken_books(server: Served) -> Iterator[None]:
    """What the gateway keeps of a connection, beside the registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.gateway._permission, "forget", fail)
        patch.setattr(server.gateway._audiences[None].punctuality, "fell_silent", fail)
        patch.setattr(server.gateway._audiences[None].punctuality, "came", fail)
        yield


@pytest.mark.parametrize("broken", [broken_log, broken_meters, broken_hooks, broken_subscriber, broken_books])
async def test_whatever_fails_in_the_telling_who_goes_is_offline_and_the_others_hear_of_it(
    server: Served, broken: Callable[[Served], Any]
) -> None:
    bob = await Client.connect(server.url, "bob")
    await bob.watch("alice", "carol")
    with broken(server):
        alice, carol = await Client.connect(server.url, "alice"), await Client.connect(server.url, "carol")
        await bob.until(lambda: bob.shows("alice") == bob.shows("carol") == "online")
        await alice.close()
        await carol.leave()
        await bob.until(lambda: bob.shows("alice") == bob.shows("carol") == "offline")
        await until(lambda: server.presence.writer.state().pending == 0)
        rows = await server.presence.store.read(["alice", "carol"])
        assert [row.is_online for row in rows.values()] == [False, False]
        assert await server.connections() == 1
        assert server.gateway._audiences[None].connections_of == {"bob": 1}
    await bob.close()


async def test_one_watcher_that_cannot_be_told_is_closed_and_all_others_are_told(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, of_all = [await Client.connect(server.url, name) for name in ("first", "second", "of-all")]
    for watcher in (first, second):
        await watcher.watch("alice")
    await of_all.watch(all=True)
    send = Socket.send
    bad = {first.ready["connectionId"], of_all.ready["connectionId"]}
    monkeypatch.setattr(Socket, "send", lambda self, message: fail() if self.id in bad else send(self, message))
    alice = await Client.connect(server.url, "alice")
    await second.until(lambda: second.shows("alice") == "online")
    async with asyncio.timeout(5):
        await first.closed.wait()
        await of_all.closed.wait()
    assert server.failures("a watcher") >= 2
    await second.until(lambda: second.shows("first") is None)
    await alice.close()
    await second.until(lambda: second.shows("alice") == "offline")
    await second.close()


async def test_one_change_that_cannot_be_written_costs_no_other_of_its_window(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from herenow.gateway import outbox
    from herenow.http import following

    for module in (outbox, following):
        encode = module.encode_change
        monkeypatch.setattr(
            module, "encode_change", lambda change, do=encode: fail() if change.user_id == "bad" else do(change)
        )
    bob = await Client.connect(server.url, "bob")
    await bob.watch("bad", "good")
    stream = following.Followers(server.presence).follow(None)
    await anext(stream)
    heard = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    clients = [await Client.connect(server.url, name) for name in ("bad", "good")]
    await bob.until(lambda: bob.shows("good") == "online")
    text = await heard
    while b"good" not in text:
        text = await anext(stream)
    assert b'"bad"' not in text
    await stream.aclose()
    for client in (*clients, bob):
        await client.close()


async def test_a_token_that_has_ended_ends_its_connection_though_the_client_cannot_be_told(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client.connect(server.url, "alice")
    monkeypatch.setattr(Socket, "emit", fail)
    server.gateway._expiry.set(alice.ready["connectionId"], 1.0)
    async with asyncio.timeout(10):
        await alice.closed.wait()


async def test_of_a_crowd_that_is_evicted_one_that_cannot_be_closed_keeps_no_other(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [await Client.connect(server.url, name) for name in ("a", "b", "c")]
    bad = clients[0].ready["connectionId"]
    disconnect = Socket.disconnect
    monkeypatch.setattr(
        Socket, "disconnect", lambda self, close=False: fail() if self.id == bad else disconnect(self, close=close)
    )
    await server.presence.evict(None, disconnect=True)
    for client in clients[1:]:
        async with asyncio.timeout(5):
            await client.closed.wait()
    monkeypatch.undo()
    await clients[0].close()


# -- a connect that fails half-way ------------------------------------------------------------------------------------


async def test_a_connect_that_fails_after_it_was_registered_leaves_nobody_in_the_registry(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Socket, "emit", fail)  # of presence:ready
        with pytest.raises(Refused) as refused:
            await Client.connect(server.url, "alice")
    assert refused.value.error["data"]["code"] == "internal"
    assert await server.connections() == 0
    assert server.gateway._clients == 0
    assert server.gateway._audiences[None].connections_of == {}
    await until(lambda: not server.presence.registry._ledger.held)  # type: ignore[attr-defined]  # after the grace


async def test_a_connect_that_is_cancelled_leaves_nobody_in_the_registry(server: Served) -> None:
    connecting = asyncio.Event()
    connect = server.presence.registry.connect

    def slow(*args: Any, **options: Any) -> Any:
        applied = connect(*args, **options)
        connecting.set()
        return asyncio.gather(applied, asyncio.sleep(3600))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.presence.registry, "connect", slow)
        opening = asyncio.create_task(Client.connect(server.url, "alice"))
        await connecting.wait()
        await until(lambda: server.gateway._clients == 1)
        for task in list(server.gateway.server._tasks):
            task.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    await until(lambda: server.gateway._clients == 0)
    assert await server.connections() == 0


async def test_a_socket_that_goes_while_it_is_registered_leaves_nobody_in_the_registry(server: Served) -> None:
    registered, go_on = asyncio.Event(), asyncio.Event()
    connect = server.presence.registry.connect

    async def slow(*args: Any, **options: Any) -> None:
        await connect(*args, **options)
        registered.set()
        await go_on.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.presence.registry, "connect", slow)
        opening = asyncio.create_task(connect_socket(server.url, '40{"userId":"alice"}'))
        await registered.wait()
        assert await server.connections() == 1
        opening.cancel()
        for connection in list(server.gateway.server.engine.connections.values()):
            connection.close()
        go_on.set()
        await asyncio.gather(opening, return_exceptions=True)
    await until(lambda: server.gateway._clients == 0)
    assert await server.connections() == 0


async def test_who_is_still_being_let_in_when_the_server_stops_is_refused_and_never_online(tmp_path: Path) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()
    changes: list[Change] = []

    async def authenticate(auth: Any, handshake: Any) -> Identity:
        if auth["userId"] == "late":
            asked.set()
            await may_answer.wait()
        return Identity(auth["userId"])

    presence = Presence(f"sqlite:///{tmp_path}/app.db", authenticate=authenticate)
    presence.on_change(changes.append)
    app = FastAPI()
    gateway = mount_wire(presence, app)
    async with serving(app) as url:
        here = await Client.connect(url, "here")
        late = asyncio.create_task(Client.connect(url, "late"))
        await asked.wait()
        gateway.stop()
        may_answer.set()
        await asyncio.gather(late, return_exceptions=True)
        refused = presence.meters.refused.labels("shutting_down")
        await until(lambda: refused._value.get() == 1)
        assert (await presence.stats()).connections == 1, "everyone is written offline in one go, and not one by one"
        async with asyncio.timeout(5):
            await here.closed.wait()
        assert [error["code"] for error in here.errors] == ["shutting_down"]
    assert [(change.user_id, change.cause) for change in changes] == [("here", "connect"), ("here", "restart")]


async def test_who_is_looked_up_in_the_database_while_the_server_stops_is_not_let_in(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def known(*_: Any, **__: Any) -> bool:
        server.gateway._stopping = True
        return True

    monkeypatch.setattr(Presence, "refuses_unknown", True)
    monkeypatch.setattr(server.presence, "is_known", known)
    with pytest.raises(Refused) as refused:
        await Client.connect(server.url, "alice")
    assert refused.value.error["data"]["code"] == "shutting_down"
    assert await server.connections() == 0


async def test_what_fails_because_the_server_stops_is_told_so(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await Client.connect(server.url, "alice")

    async def snapshot(*_: Any, **__: Any) -> Any:
        server.gateway._stopping = True
        raise NotStarted

    monkeypatch.setattr(server.presence, "snapshot", snapshot)
    answer = await alice.call("presence:get", {"users": ["bob"]})
    assert answer["error"]["code"] == "shutting_down"
    server.gateway._stopping = False
    await alice.close()


# -- the roll call ---------------------------------------------------------------------------------------------------


def roll_call(server: Served) -> RollCall:
    return RollCall(
        server.presence.tenants,
        "local",
        server.sockets,
        lambda socket: socket.disconnect(close=True),
        server.gateway._departures,
        server.presence.meters,
        every_s=3600,
    )


async def test_a_connection_without_a_socket_is_ended_once_it_was_seen_twice(server: Served) -> None:
    bob = await Client.connect(server.url, "bob")
    await bob.watch("ghost")
    await server.presence.registry.connect("ghost", "nobody's", node="local")
    await bob.until(lambda: bob.shows("ghost") == "online")
    calls = roll_call(server)
    await calls.look()
    assert await server.connections() == 2, "it might be under way"
    await calls.look()
    assert await server.connections() == 1
    await bob.until(lambda: bob.shows("ghost") == "offline")
    assert server.presence.meters.strays.labels("unserved")._value.get() == 1
    await calls.look()
    assert not bob.closed.is_set()
    await bob.close()


async def test_a_socket_without_a_connection_is_closed_so_that_its_client_comes_back(server: Served) -> None:
    alice, bob = await Client.connect(server.url, "alice"), await Client.connect(server.url, "bob")
    server.presence.registry.disconnect("alice", alice.ready["connectionId"], Closing.CLOSED)
    calls = roll_call(server)
    await calls.look()
    await asyncio.sleep(0.05)
    assert not alice.closed.is_set()
    await calls.look()
    async with asyncio.timeout(5):
        await alice.closed.wait()
    assert server.presence.meters.strays.labels("unregistered")._value.get() == 1
    assert not bob.closed.is_set()
    await bob.close()


def fail_later(*args: Any) -> "asyncio.Future[None]":
    async def late() -> None:
        await asyncio.sleep(0.01)
        fail()

    return asyncio.ensure_future(late())


@pytest.mark.parametrize("failure", [fail, fail_later], ids=["at once", "later"])
async def test_a_disconnect_is_told_again_until_the_registry_takes_it(
    tmp_path: Path, failure: Callable[..., Any]
) -> None:
    """A registry that cannot be reached for a while: nobody may be online for ever whose end it has not heard of."""
    async with served(tmp_path) as server:
        alice = await Client.connect(server.url, userId="alice", tenant="acme")
        registry = server.presence.registry_of("acme")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "disconnect", failure)
            await alice.leave()
            await until(lambda: server.failures("disconnect") == 2)
            assert (await registry.stats()).connections == 1
        await until(lambda: not registry._ledger.connections)  # type: ignore[attr-defined]
        assert (await registry.stats()).users == 0, "it left: there is no grace"
        await until(lambda: not server.gateway._departures._told)


async def test_what_the_registry_was_not_told_of_is_found_by_the_roll_call_in_every_tenant(tmp_path: Path) -> None:
    async with served(tmp_path, audit_every_s=0.2) as server:
        alice = await Client.connect(server.url, userId="alice", tenant="acme")
        registry = server.presence.registry_of("acme")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server.gateway._departures, "tell", lambda departure: None)
            await alice.close()
            await until(lambda: not server.sockets)
            assert (await registry.stats()).connections == 1
        await until(lambda: server.presence.meters.strays.labels("unserved")._value.get() == 1)
        assert (await registry.stats()).connections == 0
