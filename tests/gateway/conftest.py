"""A server over a real port, with a real store behind it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from gateway.served import Serve, Served
from herenow.presence import Presence
from support import serving
from wired import mount_wire


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Served]:
        given = {"dev": True, "offline_within_s": 0.6, **settings}
        presence = Presence(f"sqlite:///{tmp_path}/app.db", **given)
        app = FastAPI()
        gateway = mount_wire(presence, app)
        async with serving(app) as url:
            yield Served(url, presence, gateway)
        assert gateway.server.engine.connections == {}

    return run


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Served]:
    async with serve() as served:
        yield served
