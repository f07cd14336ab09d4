"""The door: the commands come in whatever stands before the application, nobody else does, and it ends with it."""

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from herenow import Presence
from herenow.http.state_file import ServerState, read
from support import http_client, serving

SECRET = "a secret of at least thirty-two bytes"


class Refusing:
    """A middleware that lets nobody in."""

    def __init__(self, app: object) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)  # type: ignore[operator]
            return
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": b"not here"})


def stated(directory: Path) -> ServerState:
    found = read(directory / "app.db-server")
    assert found is not None and found.phase == "serving"
    return found


async def test_it_opens_for_the_token_alone_and_behind_no_middleware_of_the_application(tmp_path: Path) -> None:
    app = FastAPI()
    app.add_middleware(Refusing)
    Presence(f"sqlite:///{tmp_path}/app.db", jwt_secret=SECRET).mount(app)
    async with serving(app) as url:
        state = stated(tmp_path)
        key = {"Authorization": f"Bearer {state.token}"}
        async with http_client() as http:
            assert (await http.get(f"{url}/v1/admin/status", headers=key)).status_code == 403
            assert (await http.get(f"{state.address}/v1/admin/status", headers=key)).status_code == 200
            assert (await http.get(f"{state.address}/v1/admin/status")).status_code == 401
            wrong = {"Authorization": "Bearer another"}
            assert (await http.post(f"{state.address}/v1/admin/cleanup", headers=wrong, json={})).status_code == 401
            missing = await http.get(f"{state.address}/docs", headers=key)
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert state.address.startswith("http://127.0.0.1:")
    with pytest.raises(httpx.ConnectError):
        async with http_client() as http:
            await http.get(state.address)


async def test_who_follows_through_it_is_told_the_end(tmp_path: Path) -> None:
    app = FastAPI()
    Presence(f"sqlite:///{tmp_path}/app.db", jwt_secret=SECRET).mount(app)
    async with http_client(timeout=20) as http:
        async with serving(app):
            state = stated(tmp_path)
            key = {"Authorization": f"Bearer {state.token}"}
            request = http.build_request("GET", f"{state.address}/v1/changes", headers=key)
            stream = await http.send(request, stream=True)
            assert stream.status_code == 200
        async with asyncio.timeout(10):
            assert "retry" in (await stream.aread()).decode(), "whole to its end, and not cut off"
    assert not (tmp_path / "app.db-server").exists()
