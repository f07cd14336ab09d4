"""An application's MongoDB database as the application sees it: through the plain driver."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bson.codec_options import CodecOptions
from pymongo import MongoClient

import mongod
from herenow.store.mongo.store import MongoStore


class Shop:
    """An application's MongoDB database, past herenow."""

    def __init__(self, client: MongoClient[dict[str, Any]], server: mongod.Mongod) -> None:
        self.server = server
        self.name = mongod.fresh_database()
        self.database = client.get_database(self.name, codec_options=CodecOptions(tz_aware=True))
        self.users = self.database.users

    def store(self, **options: Any) -> MongoStore:
        """A store on it, not opened yet."""
        return MongoStore(self.server.url(self.name), **options)

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[MongoStore]:
        """A store on it, open while inside."""
        store = self.store(**options)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    def find(self, user_id: object) -> dict[str, Any]:
        """A user's document, without its id."""
        found = self.users.find_one({"_id": user_id}, {"_id": 0})
        assert found is not None
        return found
