"""The connection to one MongoDB database: bounded in time, with herenow's errors.

A server that hangs is worse than one that is gone: nothing ever comes back. So each operation has a deadline, which
also goes to the server, and the driver's own wait for a server is short. Whoever asked tries again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pymongo
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, InvalidURI

from herenow.errors import StoreUrlInvalid
from herenow.store.mongo.errors import DRIVER_ERRORS, translate
from herenow.store.mongo.url import MongoUrl

T = TypeVar("T")
Document = dict[str, Any]
Database = AsyncDatabase[Document]
Work = Callable[[Database], Awaitable[T]]
"""What is to be done with the database; may be done again after a failure."""

CODEC: CodecOptions[Document] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD,
    # A date as its milliseconds: exact, and one beyond the year 9999 is no error.
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="replace",
)
_LOOK_S = 5.0  # between two looks whether a server lives that works on something long, and how long each may take
_CONNECT_TIMEOUT_MS = 2000
_CONFIRM_TIMEOUT_MS = 10_000
_CLOSE_TIMEOUT_S = 0.5
_HEARTBEAT_MS = 1000  # at the driver's 10 s, a server that it has given up for a moment could stay so for as long


async def _ping(database: Database) -> None:
    await database.command("ping")


class MongoConnection:
    """The driver's client, made at need and made anew after ``close``.

    Args:
        url: which database.
        timeout_s: how long an operation may take before it counts as failed.
    """

    def __init__(self, url: MongoUrl, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._client: AsyncMongoClient[Document] | None = None

    async def run(self, work: Work[T]) -> T:
        """Do something that is short.

        Raises:
            StoreError: it failed, or was not done in time; any part of it may have been done.
        """
        return await self._run(work, self._timeout_s)

    async def run_long(self, work: Work[T]) -> T:
        """Do something that takes as long as there are users, while the server shows that it lives.

        Raises:
            StoreError: as above; or the server has fallen silent.
        """
        working = asyncio.ensure_future(self._run(work, None))
        try:
            while not (await asyncio.wait((working,), timeout=_LOOK_S))[0]:
                await self._run(_ping, _LOOK_S)
            return await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            with pymongo.timeout(_CLOSE_TIMEOUT_S):  # it takes leave of the server, which may hang
                await client.close()

    async def _run(self, work: Work[T], timeout_s: float | None) -> T:
        try:
            with pymongo.timeout(timeout_s):
                return await work(self._database())
        except ConfigurationError as error:
            await self.close()  # the look-up of mongodb+srv:// failed, and the client would not try it again
            raise translate(error, self._url.name) from error
        except DRIVER_ERRORS as error:
            raise translate(error, self._url.name) from error

    def _database(self) -> Database:
        if self._client is None:
            self._client = self._connect()
        # Whatever the address says: who is online is asked of the primary, where it is written.
        return self._client.get_database(
            self._url.database, codec_options=CODEC, read_preference=ReadPreference.PRIMARY
        )

    def _connect(self) -> AsyncMongoClient[Document]:
        defaults: dict[str, Any] = {
            "appname": "herenow",
            "w": "majority",
            "wTimeoutMS": _CONFIRM_TIMEOUT_MS,
            "connectTimeoutMS": _CONNECT_TIMEOUT_MS,
            "serverSelectionTimeoutMS": _CONNECT_TIMEOUT_MS,
            "heartbeatFrequencyMS": _HEARTBEAT_MS,
        }
        unset = {name: value for name, value in defaults.items() if name.lower() not in self._url.options}
        try:
            return AsyncMongoClient(self._url.url, **unset)
        except (
            ConfigurationError,
            InvalidURI,
            ValueError,
            OSError,
        ) as error:  # such as a certificate that is not there
            raise StoreUrlInvalid(self._url.name, str(error).splitlines()[0].rstrip(".")) from error
