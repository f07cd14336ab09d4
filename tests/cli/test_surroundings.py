"""A real ``herenow serve`` in bad company: no file descriptors left, ids that are no text, proxies, rubbish."""

import asyncio
import json
import os
import resource
import socket
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.asyncio.client import connect

from cli_support import Server, serving_process
from clients import Client
from support import Poller, closed, http_client, until, websocket, websocket_url

SECRET = "a secret of at least thirty-two bytes"
ADMIN = "an-admin-token-of-some-length"


def events(server: Server) -> list[str]:
    return [str(json.loads(line)["event"]) for line in server.logged().splitlines() if line.startswith("{")]


async def test_without_file_descriptors_it_says_so_and_lives_on_and_heals(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        pid = server.program.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        port = int(server.address.rpartition(":")[2])
        alice, bob = await Client.connect(server.address, "alice"), await Client.connect(server.address, "bob")
        await bob.watch("alice")
        async with http_client(base_url=server.address) as http:  # on a connection that is there already

            async def metric(name: str) -> float:
                shown = (await http.get("/metrics")).text
                return float(next(line.rpartition(" ")[2] for line in shown.splitlines() if line.startswith(name)))

            refused = 'herenow_connects_refused_total{code="no_descriptors"}'
            assert await metric(refused) == 0
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, before[1]))
            crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
            try:
                await until(lambda: any("no file descriptors left" in event for event in events(server)))
                assert await metric("herenow_descriptors_short") == 1
                assert 0 < await metric(refused) < 200
                assert any(answer.startswith(b"HTTP/1.1 503 ") for answer in map(_read, crowd))
                # Who is in goes on, and so does the database, which still has descriptors to open.
                assert (await alice.call("presence:claim", {"availability": "busy"}))["ok"]
                await bob.until(lambda: bob.shows("alice") == "busy")
                assert (await http.get("/v1/admin/drift")).status_code == 200
            finally:
                for each in crowd:
                    each.close()
            await until(lambda: "there are file descriptors again" in events(server))
            assert await metric("herenow_descriptors_short") == 0
            # And when there is really none, as the event loop and the kernel have it.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
            with socket.create_connection(("127.0.0.1", port)) as another:
                another.settimeout(10)
                assert another.recv(1) == b""
            async with asyncio.timeout(10):
                while await metric("herenow_descriptors_short") == 0:  # noqa: ASYNC110  # another process's state
                    await asyncio.sleep(0.05)
            assert (await alice.call("presence:claim", {"availability": None}))["ok"]
            await bob.until(lambda: bob.shows("alice") == "online")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        carol = await Client.connect(server.address, "carol")
        for client in (alice, bob, carol):
            await client.close()
        assert len([event for event in events(server) if "no file descriptors left" in event]) == 1


def _read(peer: socket.socket) -> bytes:
    peer.setblocking(False)
    try:
        return peer.recv(4096)
    except OSError:
        return b""


ODD = ("%c3", "%00", "%ed%a0%80", "%c0%af", "%f0%82%82%ac", "%ff", "a%0ab", "%e2%80%a8", "%C3%A9%c3", "%c2%85")
"""Cut short, null, a lone surrogate, overlong, none at all, line breaks, a good one and a bad one, a control."""

ASKED = (
    ("GET", "/v1/users/{}"),
    ("PUT", "/v1/users/{}/claim"),
    ("DELETE", "/v1/users/{}/claim"),
    ("GET", "/v1/users/alice?tenant={}"),
    ("GET", "/v1/online?cursor={}"),
    ("GET", "/v1/online?limit={}"),
    ("GET", "/v1/changes?since={}"),
    ("GET", "/v1/admin/users/{}/explain"),
    ("POST", "/v1/admin/users/{}/disconnect"),
    ("POST", "/v1/admin/cleanup?tenant={}"),
    ("GET", "/socket.io/?EIO=4&transport={}"),
    ("GET", "/socket.io/?EIO=4&transport=polling&sid={}"),
)


async def test_what_is_no_text_is_answered_400_everywhere(tmp_path: Path) -> None:
    """``%c3`` was another's id, and another server's 500: a half character, in whose place something else was put."""
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("hello")
    with serving_process(tmp_path, "--page", "page") as server:
        async with http_client(base_url=server.address) as http:
            for method, path in ASKED:
                for odd in ODD:
                    body: Any = {} if method in ("PUT", "POST") else None
                    answer = await http.request(method, path.format(odd), json=body)
                    assert answer.status_code == 400, (method, path, odd, answer.text)
                    if path.startswith("/v1"):
                        assert answer.json()["error"]["code"] == "bad_request"
            for odd in ODD:  # where no endpoint is, there is nothing
                for path in ("/{}", "/v1/{}", "/docs-files/{}", "/socket.io/{}"):
                    assert (await http.get(path.format(odd))).status_code == 404, (path, odd)
            assert (await http.get("/v1/users/%C3%A9")).json()["userId"] == "é"
            long = "x" * 60_000
            assert (await http.get(f"/v1/users/{long}")).status_code == 400
            assert (await http.get(f"/v1/online?cursor={long}")).status_code == 400


@pytest.mark.parametrize("trusted", [[], ["127.0.0.0/8"]], ids=["nobody trusted", "trusted"])
async def test_both_transports_explain_and_http_know_one_address_and_one_scheme(
    tmp_path: Path, trusted: list[str]
) -> None:
    (tmp_path / "page" / "sub").mkdir(parents=True)
    (tmp_path / "page" / "sub" / "index.html").write_text("hello")
    settings = {"JWT_SECRET": SECRET, "ADMIN_TOKENS": json.dumps([ADMIN]), "TRUSTED_PROXIES": json.dumps(trusted)}
    environment: dict[str, Any] = {f"HERENOW_{name}": value for name, value in settings.items()}
    brought = {"X-Forwarded-For": "1.1.1.1, 203.0.113.9", "X-Forwarded-Proto": "https"}
    bearer = {"Authorization": f"Bearer {jwt.encode({'sub': 'alice'}, SECRET)}"}
    with serving_process(tmp_path, "--page", "page", dev=False, **environment) as server:
        async with (
            connect(websocket_url(server.address), additional_headers={**brought, **bearer}) as ws,
            Poller(server.address, headers={**brought, **bearer}) as poller,
            http_client(base_url=server.address, headers=brought) as http,
        ):
            await ws.recv()
            await ws.send("40")
            await ws.recv()
            await poller.open()
            await poller.post("40")
            explained = await http.get("/v1/admin/users/alice/explain", headers={"Authorization": f"Bearer {ADMIN}"})
            addresses = {each["address"] for each in explained.json()["connections"]}
            assert addresses == {"203.0.113.9" if trusted else "127.0.0.1"}
            assert len(explained.json()["connections"]) == 2
            moved = await http.get("/sub")
            assert moved.headers["location"].startswith("https:" if trusted else "http:")
            assert ("strict-transport-security" in moved.headers) == bool(trusted)
            await poller.post("1")
            async with websocket(server.address) as rubbish:
                await rubbish.recv()
                await rubbish.send("4zzz")
                assert await closed(rubbish) == 1002
            told = "no valid Socket.IO from 127.0.0.1: a Socket.IO packet has no type or an unknown one"
            await until(lambda: told in events(server))  # a thread writes the log


@pytest.mark.parametrize("trusted", ["[]", '["127.0.0.0/8"]'])
async def test_dev_refuses_what_a_proxy_on_this_machine_brings_from_elsewhere(tmp_path: Path, trusted: str) -> None:
    with serving_process(tmp_path, HERENOW_TRUSTED_PROXIES=trusted) as server:
        for header in ({"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}, {"X-Real-IP": "::7"}):
            async with http_client(base_url=server.address, headers=header) as http:
                assert (await http.get("/v1/stats")).status_code == 401
            async with connect(websocket_url(server.address), additional_headers=header) as ws:
                await ws.recv()
                await ws.send('40{"userId":"alice"}')
                assert '"code":"forbidden"' in str(await ws.recv())
            async with Poller(server.address, headers=header) as poller:
                await poller.open()
                await poller.post('40{"userId":"alice"}')
                assert '"code":"forbidden"' in (await poller.get()).text
        async with http_client(base_url=server.address, headers={"X-Forwarded-For": "::1"}) as http:
            assert (await http.get("/v1/stats")).status_code == 200
        await (await Client.connect(server.address, "alice")).close()
