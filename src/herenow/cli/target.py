"""Whom a command asks: the live server that owns the store, or, where none lives, the store itself.

The server's address stands in its row of the store. Its admin token lies in a file which only the server's own user can
read: a command of another user is told so, and does not work behind the server's back.
"""

import asyncio
import http.client
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from pydantic import BaseModel, ValidationError

from herenow.cli.options import CouldNotLook
from herenow.cli.output import complain
from herenow.errors import StoreUnavailable
from herenow.http.token_file import find_token_file
from herenow.settings import Settings, is_loopback, sqlite_path
from herenow.store.base import Store
from herenow.store.liveness import Watch, find_living
from herenow.store.nodes import Node, Roll
from herenow.store.sqlite_glance import live_node
from herenow.store.sqlite_thread import Hangs, Thread
from herenow.times import to_iso

Model = TypeVar("Model", bound=BaseModel)

ANSWER_WITHIN_S = 60
"""How long a server may take for an answer: it may have to go through all of its users."""

CONNECT_WITHIN_S = 3

GLANCE_S = 3.0
"""How long the database may take to say who serves."""

STARTING_S = 3.0
"""A server claims the store a moment before it leaves its token: so long after its start, a command waits for that."""


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Store]:
    """Open the store of the settings.

    Raises:
        StoreError: it cannot be used.
    """
    from herenow.store.opening import open_store  # here: it brings the database's driver

    store = open_store(settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def find_owner(settings: Settings) -> Node | None:
    """Return the live server that owns the store, if there is one. Where that is doubtful, it takes a lease to know.

    Raises:
        StoreError: it cannot be read, or was never prepared.
    """
    path = sqlite_path(settings.database)
    node = None if path is None else await _glance(path, time.time_ns() // 1_000_000)
    if node is not None:
        return node
    async with opened(settings) as store:
        living = await find_living(store.roll, Watch(settings.node_lease_s), on_doubt=_complain)
        return None if living is None else living.node


def _complain(roll: Roll) -> None:
    for complaint in roll.complaints:
        complain(f"{complaint}: looking whether one lives")


async def _glance(path: Path, now_ms: int) -> Node | None:
    """Look who lives by the file, whose disk may be frozen."""
    thread = Thread("herenow glance")
    try:
        return await thread.do(partial(live_node, path, now_ms), within_s=GLANCE_S)
    except Hangs as error:
        raise StoreUnavailable(str(path), "it did not answer in time") from error
    finally:
        thread.end()


class LiveServer:
    """A server that lives, asked over HTTP as an operator.

    Args:
        node: its row in the store.
        token: what lets this command in.
    """

    def __init__(self, node: Node, token: str) -> None:
        self.node = node
        self._token = token

    def get(self, path: str, model: type[Model]) -> Model:
        """Ask.

        Raises:
            CouldNotLook: it does not answer, or not like a herenow.
        """
        return self._ask("GET", path, None, model)

    def post(self, path: str, order: dict[str, Any], model: type[Model]) -> Model:
        """Order.

        Raises:
            CouldNotLook: as in :meth:`get`; the order may have been carried out.
        """
        return self._ask("POST", path, order, model)

    @contextmanager
    def stream(self, path: str, *, silent_s: float) -> Iterator[Iterator[bytes]]:
        """Open an answer that does not end, and give its lines.

        Args:
            silent_s: for how long nothing may come.

        Raises:
            CouldNotLook: it is refused.
            OSError, http.client.HTTPException: it cannot be reached, or the stream breaks.
        """
        connection = self._connection(silent_s)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            if response.status != 200:
                raise CouldNotLook(f"{self._name} refuses: {response.reason}")
            yield iter(response.readline, b"")
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        # Not urllib: it would send the token to a proxy that the environment names.
        address = urlsplit(self.node.address)
        host, port = address.hostname or "", address.port
        if address.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        context = ssl.create_default_context()
        if is_loopback(host):
            # The certificate names the server as the world knows it. What answers on this machine needs no proof.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, model: type[Model]) -> Model:
        status, text = self._exchange(method, path, body)
        try:
            if status == 200:
                return model.model_validate_json(text)
            error = msgspec.json.decode(text, type=dict[str, Any])["error"]
            raise CouldNotLook(f"{self._name} refuses: {error['message']}")
        except (ValidationError, msgspec.MsgspecError, KeyError, TypeError) as error:
            raise CouldNotLook(f"what answers at {self.node.address} does not speak like this herenow") from error

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        connection = self._connection(CONNECT_WITHIN_S)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.connect()
            if isinstance(connection.sock, socket.socket):
                connection.sock.settimeout(ANSWER_WITHIN_S)
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        except TimeoutError as error:
            raise CouldNotLook(f"{self._name} lives, but does not answer") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CouldNotLook(f"{self._name} cannot be reached: {reason.lower()}") from error
        finally:
            connection.close()

    @property
    def _name(self) -> str:
        return f"the server at {self.node.address} ({_describe(self.node)})"


def find_server(settings: Settings) -> LiveServer | None:
    """Return the live server to ask; ``None`` if none lives, and the store is ours to work on.

    Raises:
        StoreError: the store cannot be read.
        CouldNotLook: a server lives, but this command cannot come in.
    """
    node = asyncio.run(find_owner(settings))
    if node is None:
        return None
    if not node.address:
        raise CouldNotLook(
            f"a server owns the store ({_describe(node)}) and does not say where it can be reached: set "
            "HERENOW_ADDRESS there, such as http://127.0.0.1:8000"
        )
    if node.host != socket.gethostname():
        raise CouldNotLook(f"a server owns the store ({_describe(node)}): run this command on {node.host}")
    return LiveServer(node, _read_token(settings, node))


def _read_token(settings: Settings, node: Node) -> str:
    file = find_token_file(settings.database, node.address)
    began_s = time.monotonic()
    while True:
        try:
            return file.read()
        except FileNotFoundError as error:
            has_started = time.time() - node.started_ms / 1000 > STARTING_S
            if has_started or time.monotonic() - began_s > STARTING_S:  # the second: the clock may have been set back
                raise CouldNotLook(
                    f"a server owns the store ({_describe(node)}), but its token file {file.path} is not there: "
                    "restart it, or stop it to work on the store alone"
                ) from error
            time.sleep(0.1)
        except (OSError, UnicodeDecodeError) as error:
            raise CouldNotLook(
                f"a server owns the store ({_describe(node)}), and its token file {file.path} cannot be read: "
                "run this command as the server's own user"
            ) from error


def _describe(node: Node) -> str:
    return f"process {node.pid} on {node.host}, last beat {to_iso(node.beat_ms)}"
