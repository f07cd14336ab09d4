"""A presence server of a test, with all that a test asks of it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from clients import Client
from herenow.gateway.handlers import Gateway
from herenow.presence import Presence


class Served:
    """A presence server of a test."""

    def __init__(self, url: str, presence: Presence, gateway: Gateway) -> None:
        self.url, self.presence, self.gateway = url, presence, gateway

    async def connect(self, user: str, *, watch: tuple[str, ...] = ()) -> Client:
        client = await Client.connect(self.url, user)
        if watch:
            await client.watch(*watch)
        return client

    async def row(self, user: str) -> tuple[bool, str] | None:
        """What the store says."""
        row = (await self.presence.store.read([user])).get(user)
        return None if row is None else (row.is_online, row.availability)


Serve = Callable[..., AbstractAsyncContextManager[Served]]
