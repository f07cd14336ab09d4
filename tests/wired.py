"""Presence in an application of the tests, without its HTTP API: that takes longer to build than most tests take."""

import asyncio

from starlette.applications import Starlette

from herenow.gateway.handlers import Gateway
from herenow.http.api import Faces
from herenow.mounting import mount
from herenow.presence import Presence


def mount_wire(presence: Presence, app: Starlette) -> Gateway:
    """Serve the Socket.IO side alone."""
    return mount(presence, app, faces=Faces(http=False))


async def end_all_tasks(presence: Presence) -> None:
    """End what a presence runs, as a crash does: nothing is written any more."""
    assert presence._keeper is not None
    tasks = [*presence._tasks, *presence._keeper._tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
