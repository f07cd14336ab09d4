"""An ended connection leaves no cycle behind: a garbage collection that has to find thousands stops everybody."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette

from clients import Client
from herenow import Presence
from herenow.mounting import mount
from herenow.socketio_server import Connection
from support import SHELLS, Poller, Shell, serving, until

OURS = ("herenow", "uvicorn.protocols.http", "httptools")


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Collect what of ours is made while inside and left in cycles; its types and how many there are."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    others = {id(each) for each in gc.get_objects()}  # a test before may still let go of its own
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        made = [each for each in gc.garbage if id(each) not in others]
        names = (f"{type(each).__module__}.{type(each).__qualname__}" for each in made)
        found.update(name for name in names if name.startswith(OURS))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def application(directory: Path) -> tuple[dict[str, Connection], Starlette]:
    presence = Presence(f"sqlite:///{directory / 'app.db'}", dev=True, ping_interval_s=0.2, ping_timeout_s=0.2)
    app = Starlette()
    gateway = mount(presence, app)
    return gateway.server.engine.connections, app


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_websocket_leaves_nothing_to_collect(tmp_path: Path, shell: Shell) -> None:
    connections, app = application(tmp_path)
    async with serving(app, shell) as url:
        await (await Client.connect(url, "first")).leave()  # what is made once
        with garbage() as found:
            for number in range(20):
                client = await Client.connect(url, f"user-{number}")
                await client.watch("first")
                await (client.leave() if number % 2 else client.close())
            await until(lambda: not connections)
            await asyncio.sleep(0.1)
    # uvicorn's own WebSocket leaves its HTTP protocol behind; ours does not.
    assert not (found if shell == "fast" else {name for name in found if name.startswith("herenow")})


async def test_polling_leaves_nothing_to_collect(tmp_path: Path) -> None:
    connections, app = application(tmp_path)
    async with serving(app) as url:
        with garbage() as found:
            for number in range(20):
                async with Poller(url) as poller:
                    await poller.open()
                    await poller.post(f'40{{"userId":"user-{number}"}}')
                    await poller.get()
                    if number % 2:
                        await poller.post("1")
            await until(lambda: not connections)
            await asyncio.sleep(0.1)
    assert not found
