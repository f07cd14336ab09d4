"""A database of one's own beside the application's, for as long as a test of the system takes."""

import secrets

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from herenow.errors import StoreError
from herenow.store.mongo.errors import translate
from herenow.store.mongo.url import parse_url, with_database


class ScratchDatabase:
    """A database on the server of an address; MongoDB creates it with the first write.

    Attributes:
        name: what it is called, so that a person who finds it knows where it came from.
        url: its address.
    """

    def __init__(self, url: str) -> None:
        parse_url(url)  # a wrong one is told of here
        self.name = f"herenow_test_{secrets.token_hex(4)}"
        self.url = with_database(url, self.name)

    def drop(self) -> None:
        """Leave nothing of it.

        Raises:
            StoreError: it stays behind.
        """
        try:
            with MongoClient[dict[str, object]](self.url, serverSelectionTimeoutMS=5000) as client:
                client.drop_database(self.name)
        except PyMongoError as error:
            raise self._left(error) from error

    def _left(self, error: PyMongoError) -> StoreError:
        return translate(error, f"{parse_url(self.url).name} (which stays behind)")
