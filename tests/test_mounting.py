"""Presence in somebody's application: wherever that is mounted, whatever it serves, and however it is stopped."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from clients import Client
from e2e.servers import PresenceServer
from herenow import Presence
from herenow.errors import AlreadyStarted, SettingsInvalid
from support import PYTHONPATH, ROOT, SHELLS, Poller, Shell, connect_socket, free_port, http_client, serving, until

# -- where ---------------------------------------------------------------------------------------------------------


def make(directory: Path, **settings: Any) -> Presence:
    return Presence(f"sqlite:///{directory}/app.db", dev=True, **settings)


def at_the_root(directory: Path) -> Any:
    app = FastAPI()
    make(directory).mount(app, health=True)
    return app


def with_a_prefix(directory: Path) -> Any:
    app = Starlette()
    make(directory).mount(app, prefix="/presence", health=True)
    return app


def in_another_application(directory: Path) -> Any:
    inner = FastAPI()
    make(directory).mount(inner, health=True)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[Any]:
        async with inner.router.lifespan_context(inner) as state:
            yield state

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/api", inner)
    return outer


def in_two_others(directory: Path) -> Any:
    outer = in_another_application(directory)
    outest = Starlette(lifespan=lambda _: outer.router.lifespan_context(outer))
    outest.mount("/site", outer)
    return outest


def beside_files_at_the_root(directory: Path) -> Any:
    app = Starlette()
    app.mount("/", StaticFiles(directory=directory, html=True))
    make(directory).mount(app, health=True)
    return app


def at_another_path(directory: Path) -> Any:
    app = FastAPI()
    make(directory).mount(app, prefix="presence/", path="live", health=True)
    return app


def with_a_root_path(directory: Path) -> Any:
    app = at_the_root(directory)
    app.root_path = "/api"
    return app


PLACES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str, str]] = {
    "at the root": (at_the_root, {}, "", "/socket.io/"),
    "with a prefix": (with_a_prefix, {}, "/presence", "/presence/socket.io/"),
    "with another path": (at_another_path, {}, "/presence", "/presence/live/"),
    "in another application": (in_another_application, {}, "/api", "/api/socket.io/"),
    "in two others": (in_two_others, {}, "/site/api", "/site/api/socket.io/"),
    "beside files at the root": (beside_files_at_the_root, {}, "", "/socket.io/"),
    "behind a proxy that takes the prefix off": (at_the_root, {"root_path": "/api"}, "", "/socket.io/"),
    "behind a proxy that keeps the prefix": (with_a_root_path, {}, "/api", "/api/socket.io/"),
    "in another application behind a proxy": (
        in_another_application, {"root_path": "/site"}, "/api", "/api/socket.io/"
    ),
}  # fmt: skip
"""Each a line of the table in docs/mounting.md: the application, the server's options, and where a client asks."""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("place", PLACES)
async def test_it_is_found_wherever_it_is_mounted(place: str, shell: Shell, tmp_path: Path) -> None:
    make_app, options, base, path = PLACES[place]
    async with serving(make_app(tmp_path), shell, **options) as url:
        ws = await connect_socket(url, '40{"userId":"alice"}', path=path)
        async with Poller(url, path) as poller:
            await poller.open()
            assert (await poller.post('40{"userId":"bob"}')).status_code == 200
            assert "presence:ready" in (await poller.get()).text
            async with http_client(base_url=url + base) as http:
                assert (await http.get("/v1/stats")).json()["users"] == 2
                assert (await http.get("/readyz")).json()["ready"]
        await ws.close()


async def test_what_an_application_demands_of_all_its_routes_it_demands_of_ours(tmp_path: Path) -> None:
    def only_from_our_network(request: Request) -> None:
        if "x-ours" not in request.headers:
            raise HTTPException(401)

    app = FastAPI(dependencies=[Depends(only_from_our_network)])
    Presence(f"sqlite:///{tmp_path}/app.db", dev=True).mount(app)
    async with serving(app) as url, http_client(base_url=url) as http:
        assert (await http.get("/v1/stats")).status_code == 401
        assert (await http.get("/v1/stats", headers={"x-ours": "1"})).json()["users"] == 0


@pytest.mark.parametrize("is_kept", [False, True], ids=["taken off", "kept"])
async def test_serve_knows_its_prefix_whether_the_proxy_takes_it_off_or_keeps_it(tmp_path: Path, is_kept: bool) -> None:
    page = ROOT / "examples/quickstart"
    server = PresenceServer(tmp_path / "app.db", flags=("--dev", "--page", str(page)), root_path="/presence")
    server.start()
    prefix = "/presence" if is_kept else ""
    try:
        ws = await connect_socket(server.url, '40{"userId":"alice"}', path=f"{prefix}/socket.io/")
        async with (
            http_client(base_url=server.url + prefix) as http,
            Poller(server.url, f"{prefix}/socket.io/") as poller,
        ):
            await poller.open()
            assert (await http.get("/v1/stats")).json()["users"] == 1
            docs = await http.get("/docs")
            assert "/presence/openapi.json" in docs.text
            assert "/presence/docs-files/" in docs.text
            assert "script-src 'self'" in docs.headers["content-security-policy"]
            assert (await http.get("/docs-files/swagger-ui.css")).status_code == 200
            assert "herenow" in (await http.get("/")).text
            assert (await http.get("/vendor/socket.io.esm.min.js")).status_code == 200
        await ws.close()
    finally:
        server.stop()


# -- beside what -----------------------------------------------------------------------------------------------------


async def test_an_application_keeps_its_own_health_and_its_openapi_by_default(tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/healthz")
    def healthz() -> str:
        return "mine"

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> str:
        return "mine too"

    make(tmp_path).mount(app)
    async with serving(app) as url, http_client(base_url=url) as http:
        assert (await http.get("/healthz")).json() == "mine"
        assert (await http.get("/metrics")).json() == "mine too"
        assert (await http.get("/readyz")).status_code == 404
        assert (await http.get("/v1/online")).status_code == 200
        assert list((await http.get("/openapi.json")).json()["paths"]) == ["/healthz"]


async def test_what_is_not_wanted_is_not_there(tmp_path: Path) -> None:
    app = FastAPI()
    make(tmp_path).mount(app, http=False)
    async with serving(app) as url, http_client(base_url=url) as http:
        assert (await http.get("/v1/online")).status_code == 404
        assert (await http.get("/v1/admin/status")).status_code == 404


def test_a_path_that_both_have_is_an_error_that_names_both(tmp_path: Path) -> None:
    def theirs() -> str:
        return "theirs"

    app = FastAPI()
    app.get("/healthz")(theirs)
    with pytest.raises(SettingsInvalid, match=r"/healthz is a path of the application already .*theirs.* prefix="):
        make(tmp_path).mount(app, health=True)
    included = APIRouter()
    included.post("/v1/users/{name}")(theirs)
    app = FastAPI()
    app.include_router(included)
    before = list(app.router.routes)
    with pytest.raises(SettingsInvalid, match=r"/v1/users/.* is a path of the application already"):
        make(tmp_path).mount(app)
    assert app.router.routes == before
    app = FastAPI()
    make(tmp_path).mount(app)
    with pytest.raises(SettingsInvalid, match="is a path of the application already"):
        make(tmp_path).mount(app)
    make(tmp_path).mount(app, prefix="/second")


async def _theirs(request: Request) -> PlainTextResponse:
    return PlainTextResponse("theirs")


async def _their_socket(websocket: WebSocket) -> None:
    await websocket.close()


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
@pytest.mark.parametrize(
    "route",
    [
        Route("/v1/users/me", _theirs),
        Route("/v1/users/", _theirs),
        Route("/v1/users/{name}", _theirs),
        Route("/v1/users/me/claim", _theirs, methods=["DELETE"]),
        Route("/v1/{thing}", _theirs),
        Mount("/v1", routes=[Route("/users/me", _theirs)]),
        Mount("/v1/users", app=PlainTextResponse("theirs")),
        WebSocketRoute("/socket.io/", _their_socket),
        WebSocketRoute("/socket.io/{rest:path}", _their_socket),
    ],
    ids=lambda route: f"{type(route).__name__} {route.path}",
)
def test_neither_is_hidden_by_the_other_without_a_word(tmp_path: Path, kind: type[Starlette], route: Any) -> None:
    """``GET /v1/users/me`` of an application was once answered by us."""
    app = kind()
    app.router.routes.append(route)
    with pytest.raises(SettingsInvalid, match="is a path of the application already") as refused:
        make(tmp_path).mount(app)
    assert str(route.path) in str(refused.value)
    make(tmp_path).mount(app, prefix="/presence")


async def test_what_only_looks_like_a_path_of_ours_stays_the_applications(tmp_path: Path) -> None:
    for kind in (Starlette, FastAPI):
        app = kind()
        paths = ("/v1/users/bob/avatar", "/v1/users/bob/orders/7", "/v1/usersettings", "/socket.iox")
        app.router.routes.extend(Route(path, _theirs) for path in paths)
        make(tmp_path, api_keys=["sha256:" + hashlib.sha256(b"k").hexdigest()]).mount(app)
        async with serving(app) as url, http_client(base_url=url) as http:
            for path in paths:
                assert (await http.get(path)).text == "theirs", path
            headers = {"Authorization": "Bearer k"}
            for path, user_id in (("a%2Fb", "a/b"), ("claim", "claim"), ("a%2Fclaim", "a/claim"), ("%2F", "/")):
                answer = await http.get(f"/v1/users/{path}", headers=headers)
                assert answer.json()["userId"] == user_id
                claimed = await http.delete("/v1/users/a%2Fb/claim", headers=headers)
                assert claimed.json()["user"]["userId"] == "a/b"


def test_with_a_prefix_a_route_of_parameters_is_no_clash_and_the_advice_helps(tmp_path: Path) -> None:
    app = FastAPI()
    app.get("/{owner}/{repo}")(_theirs)
    with pytest.raises(SettingsInvalid, match="prefix='/presence'"):
        make(tmp_path).mount(app)
    make(tmp_path).mount(app, prefix="/presence")
    with pytest.raises(SettingsInvalid, match="prefix='/here'"):
        make(tmp_path).mount(app, prefix="/presence")


def test_what_cannot_be_mounted_is_told_in_a_sentence(tmp_path: Path) -> None:
    presence = make(tmp_path)
    with pytest.raises(SettingsInvalid, match="takes a FastAPI or a Starlette application, not dict"):
        presence.mount({})  # type: ignore[arg-type]
    for prefix in ("/p/{x}", "/p?x", "/p//q", "/p q"):
        with pytest.raises(SettingsInvalid, match="prefix is plain text"):
            presence.mount(FastAPI(), prefix=prefix)
    with pytest.raises(SettingsInvalid, match="path is plain text"):
        presence.mount(FastAPI(), path="/{x}/")


async def test_a_path_that_comes_later_is_an_error_at_the_start(tmp_path: Path) -> None:
    async def theirs(_: Any) -> PlainTextResponse:
        return PlainTextResponse("theirs")

    app = Starlette()
    make(tmp_path).mount(app)
    app.router.routes.append(Route("/v1/stats", theirs))
    with pytest.raises(SettingsInvalid, match="/v1/stats"):
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")


# -- twice -----------------------------------------------------------------------------------------------------------


async def test_the_same_application_can_be_started_again_after_its_end(tmp_path: Path) -> None:
    app = FastAPI()
    presence = make(tmp_path)
    presence.mount(app)
    for _ in range(2):
        async with serving(app) as url, http_client(base_url=url) as http:
            alice, bob = await Client.connect(url, "alice"), await Client.connect(url, "bob")
            await bob.watch("alice", "carol")
            async with http.stream("GET", "/v1/changes") as stream:
                assert stream.status_code == 200
                carol = await Client.connect(url, "carol")
                await bob.until(lambda bob=bob: bob.shows("carol") == "online")
                async for line in stream.aiter_lines():
                    if '"carol"' in line:
                        break
            assert await presence.disconnect("alice") == 1
            await bob.until(lambda bob=bob: bob.shows("alice") == "offline")
            async with asyncio.timeout(5):
                await alice.closed.wait()
            await carol.leave()


async def test_started_twice_at_once_the_second_has_a_clear_error_and_harms_nobody(tmp_path: Path) -> None:
    app = FastAPI()
    make(tmp_path).mount(app)
    async with serving(app) as url:
        with pytest.raises(AlreadyStarted, match="is started already"):
            async with app.router.lifespan_context(app):
                raise AssertionError("it started")
        client = await Client.connect(url, "alice")
        await client.leave()


# -- the end -----------------------------------------------------------------------------------------------------------

SERVERS = {
    "uvicorn": ("-m", "uvicorn", "--port", "{port}", "--log-level", "warning"),
    "hypercorn": ("-m", "hypercorn", "--bind", "127.0.0.1:{port}"),
    "granian": ("-m", "granian", "--interface", "asgi", "--port", "{port}"),
}


@contextlib.contextmanager
def example(directory: Path, *command: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run the FastAPI example of the README under some server, in a directory of its own."""
    shutil.copy(ROOT / "examples/fastapi_app.py", directory)
    port = free_port()
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *(part.format(port=port) for part in command), "fastapi_app:app"],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": f"{PYTHONPATH}{os.pathsep}{directory}"},
            stderr=log,
            start_new_session=True,  # with the processes that it makes
        )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def is_up(url: str) -> None:
    async with http_client() as http, asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(url + "/online")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def everything_open(url: str) -> AsyncIterator[tuple[Client, "asyncio.Task[None]"]]:
    """A WebSocket, a poll that waits, and a stream of changes; the task ends with the stream."""

    async def follow() -> None:
        async with http.stream("GET", url + "/v1/changes") as stream:
            following.set()
            with contextlib.suppress(httpx.HTTPError):
                async for _ in stream.aiter_bytes():
                    pass

    following = asyncio.Event()
    async with http_client(timeout=60) as http, Poller(url) as poller:
        client = await Client.connect(url, "alice")
        await poller.open()
        await poller.post('40{"userId":"bob"}')
        await poller.get()
        tasks = [asyncio.ensure_future(follow()), asyncio.ensure_future(_poll(poller))]
        await following.wait()
        try:
            yield client, tasks[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.close()


async def _poll(poller: Poller) -> None:
    with contextlib.suppress(httpx.HTTPError):
        while (await poller.get()).status_code == 200:
            pass


@pytest.mark.parametrize("server", SERVERS)
async def test_an_application_with_a_stream_a_poll_and_a_socket_ends_on_sigterm(server: str, tmp_path: Path) -> None:
    """Under uvicorn it took 43 s and more: that waits for all requests, and only then tells the lifespan."""
    with example(tmp_path, *SERVERS[server]) as (process, url):
        await is_up(url)
        async with everything_open(url) as (client, _):
            began_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 20)
            assert time.monotonic() - began_s < 5
            async with asyncio.timeout(5):
                await client.closed.wait()


async def test_under_reload_the_old_one_ends_within_a_second(tmp_path: Path) -> None:
    flags = ("-m", "uvicorn", "--port", "{port}", "--log-level", "warning", "--reload")
    with example(tmp_path, *flags) as (_, url):
        await is_up(url)
        async with everything_open(url) as (client, stream):
            began_s = time.monotonic()
            os.utime(tmp_path / "fastapi_app.py")  # seen within a quarter of a second
            async with asyncio.timeout(20):
                await stream
            assert time.monotonic() - began_s < 3
            await until(client.closed.is_set)
        await is_up(url)


async def test_a_second_worker_is_told_to_stay_the_only_one(tmp_path: Path) -> None:
    """The sentence named the first worker as another server, which somebody was to stop."""
    flags = ("-m", "uvicorn", "--port", "{port}", "--log-level", "warning", "--workers", "2")
    with example(tmp_path, *flags) as (_, url):
        await is_up(url)
        log = tmp_path / "server.log"
        await until(lambda: "another worker of the same web server" in log.read_text(), 20)
