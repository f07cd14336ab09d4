"""Each long-lived task and timer is killed once, by a fault that nobody foresaw, and is then alive, and at its work."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from clients import Client
from herenow import Presence
from herenow.gateway.auth import jwks as jwks_module
from herenow.gateway.auth.jwks import RETRY_S, Jwks
from herenow.gateway.handlers import Gateway
from herenow.http.patience import patient
from herenow.keeper.adoption import read_ahead
from herenow.mounting import mount
from herenow.registry.commands import Advance
from herenow.socketio_server.engineio.session import Session
from herenow.socketio_server.engineio.turns import Turns
from raw import Raw
from support import http_client, serving, until


class Fault:
    """Puts a fault before a method: its next call raises. Counts the calls that went well since."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.is_dead = False
        self.went_well = 0
        work = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            if not self.is_dead:
                self.is_dead = True
                raise ZeroDivisionError("unforeseen")
            self.went_well += 1
            return work(*args, **options)

        patch.setattr(owner, name, call)


class Served:
    def __init__(self, url: str, presence: Presence, gateway: Gateway) -> None:
        self.url, self.presence, self.gateway = url, presence, gateway

    def failures(self, part: str) -> float:
        """How often a part has failed."""
        count: float = self.presence.meters.task_failures.labels(part)._value.get()
        return count


@asynccontextmanager
async def served(
    directory: Path, http: Callable[[Presence], Any] = lambda _: "auto", **given: Any
) -> AsyncIterator[Served]:
    presence = Presence(f"sqlite:///{directory}/app.db", dev=True, offline_within_s=0.5, **given)
    app = FastAPI()
    gateway = mount(presence, app)
    async with serving(app, http=http(presence)) as url:
        yield Served(url, presence, gateway)


async def test_each_task_is_alive_again_after_its_next_step_has_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herenow.registry.tenants.SWEEP_EVERY_S", 0.05)
    quick: dict[str, Any] = {"audit_every_s": 0.1, "node_beat_s": 0.05, "can_watch_stale_s": 0.05}
    async with served(tmp_path, can_watch=lambda viewer, users: users, **quick) as server:
        presence, gateway = server.presence, server.gateway
        alice = await Client.connect(server.url, "alice")
        await alice.watch("bob")
        await until(lambda: presence.writer.state().pending == 0)
        faults = {
            "writer": Fault(monkeypatch, presence.writer, "_attempt"),
            "audit": Fault(monkeypatch, presence.store, "odd_ids"),
            "beat": Fault(monkeypatch, presence.store, "beat"),
            "tenants": Fault(monkeypatch, presence.tenants, "sweep"),
            "expiry": Fault(monkeypatch, gateway._expiry, "due"),
            "pulse": Fault(monkeypatch, presence.meters.loop_lag, "observe"),
            "roll call": Fault(monkeypatch, presence.registry, "connections_on"),
            "sight": Fault(monkeypatch, gateway._permission, "_find"),
        }
        bob = await Client.connect(server.url, "bob")  # which is to be written
        for name, fault in faults.items():
            await until(lambda fault=fault: fault.went_well, 20)  # type: ignore[misc]
            assert server.failures(name) == 1, name
        await until(lambda: presence.writer.state().pending == 0)
        assert (await presence.store.read(["bob"]))["bob"].is_online, "what was under way went on to be"
        assert (await presence.store.roll()).nodes[0].beat_ms > presence.node.started_ms
        for client in (alice, bob):
            await client.close()


async def test_what_fails_for_the_third_time_in_a_row_is_named_on_readyz(tmp_path: Path) -> None:
    async with served(tmp_path) as server, http_client(base_url=server.url) as client:
        for _ in range(2):
            server.presence.supervisor.failed("audit", ZeroDivisionError())
        assert (await client.get("/readyz")).status_code == 200
        server.presence.supervisor.failed("audit", ZeroDivisionError())
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["reason"] == "a part fails again and again, and is started again: audit"


async def test_each_timer_rings_again_after_its_next_ring_has_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(
        tmp_path, slow_reader_timeout_s=0.2, flush_longest_s=0.1, ping_interval_s=0.3, ping_timeout_s=0.3
    ) as server:
        presence, gateway = server.presence, server.gateway
        outbox = gateway._audiences[None].outbox
        bob = await Client.connect(server.url, "bob")
        await bob.watch(all=True)

        # the wheel of the registry: a linger that falls due
        ledger: Any = presence.registry._ledger  # type: ignore[attr-defined]
        apply = ledger.apply
        died: list[Any] = []

        def fail_once(command: Any, now: Any) -> Any:
            if isinstance(command, Advance) and not died:
                died.append(command)
                raise ZeroDivisionError
            return apply(command, now)

        monkeypatch.setattr(ledger, "apply", fail_once)
        alice = await Client.connect(server.url, "alice")
        await alice.close()
        await bob.until(lambda: bob.shows("alice") == "offline", 10)
        assert died
        assert server.failures("wheel") == 1

        # the outbox: a window whose flush raises is told in the next one
        Fault(monkeypatch, outbox, "_send")
        carol = await Client.connect(server.url, "carol")
        await bob.until(lambda: bob.shows("carol") == "online", 10)
        assert server.failures("outbox") == 1

        # its sweep: who reads too slowly is closed all the same
        watcher = gateway.server.namespace("/").sockets[carol.ready["connectionId"]].data
        Fault(monkeypatch, outbox, "_end")
        outbox.became_slow(watcher)
        async with asyncio.timeout(10):
            await carol.closed.wait()
        assert server.failures("slow readers") == 1

        # the heartbeat: pings go on, and whoever is silent is still found
        wheel = Fault(monkeypatch, gateway.server.engine._heartbeat._wheel, "turn")
        await until(lambda: wheel.went_well > 20)
        assert server.failures("heartbeat") == 1
        silent = gateway.server.engine.connections[next(iter(gateway.server.engine.connections))]
        heard_ms = silent.last_pong_ms
        await until(lambda: silent.last_pong_ms != heard_ms)
        assert not bob.closed.is_set()

        # one item on it: a connection without a heartbeat would have no end, so it is closed
        Fault(monkeypatch, Session, "advance")
        async with asyncio.timeout(10):
            await bob.closed.wait()
        await until(lambda: server.failures("heartbeat") == 2)
        assert (await presence.stats()).connections == 0


async def test_turns_go_on_after_one_has_raised() -> None:
    turns, faults, heard = Turns(), [], asyncio.Event()
    turns.on_fault = lambda name, error: faults.append(name)

    def fail() -> None:
        raise ZeroDivisionError

    turns.ask(fail)
    turns.ask(heard.set)
    async with asyncio.timeout(10):
        await heard.wait()
    assert faults == ["turns"]


async def test_patience_ends_with_everybody_after_one_could_not_be_cut_off(tmp_path: Path) -> None:
    cut: list[str] = []

    def count(what: str) -> None:
        cut.append(what)
        if len(cut) == 1:
            raise ZeroDivisionError

    def http(presence: Presence) -> Any:
        return patient(0.1, count, on_fault=presence.supervisor.failed)

    async with served(tmp_path, http) as server:
        silent = [await Raw.open(server.url) for _ in range(2)]
        for raw in silent:
            await raw.ended(10)
            raw.abort()
        assert cut == ["head", "head"]
        assert server.failures("patience") == 1


async def test_keys_are_fetched_again_after_a_fetch_has_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[str] = []
    jwks = Jwks("https://127.0.0.1:1/jwks.json", on_fault=lambda name, error: faults.append(name))
    fetch = Fault(monkeypatch, jwks_module, "fetch")
    monkeypatch.setattr("herenow.gateway.auth.jwks.RETRY_S", RETRY_S / 20)
    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017  # there are no keys
            await jwks.find("RS256", None)
    assert faults == ["jwks"]
    assert fetch.went_well == 1


async def test_a_page_that_could_not_be_read_ahead_keeps_nobody_waiting() -> None:
    async def read(**_: Any) -> Any:
        raise ZeroDivisionError

    async with asyncio.timeout(10), read_ahead(read, pages=1) as pages:
        with pytest.raises(ZeroDivisionError):
            await anext(pages)
