"""Whom a command asks: the live server, or, where none lives, the store itself.

A server that this user may ask says so in a state file, which is looked at before the database is: it is found while
its database is away, and whatever name the database has. Only where no state file tells of one, its row in the store
does: a command of another user, or of another machine, is told so, and does not work behind the server's back.

A server that is just stopping or starting passes: a command that asks once tries again for a few seconds.
"""

import asyncio
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from pydantic import BaseModel, ValidationError

from herenow.cli.options import CouldNotLook
from herenow.cli.output import complain
from herenow.errors import StoreError, StoreNotReady, StoreUnavailable
from herenow.http.state_file import ServerState, beside, running_servers, state_directory
from herenow.settings import Settings, sqlite_path
from herenow.store.address import identity_of
from herenow.store.base import Store
from herenow.store.liveness import Watch, find_living
from herenow.store.nodes import Node, Roll, runs_here
from herenow.store.sqlite.glance import live_node
from herenow.store.sqlite.thread import Hangs, Thread
from herenow.times import to_iso, unix_ms, unix_s
from herenow.urls import is_loopback

Model = TypeVar("Model", bound=BaseModel)

ANSWER_WITHIN_S = 60
"""How long a server may take for an answer: it may have to go through all of its users."""

CONNECT_WITHIN_S = 3

GLANCE_S = 3.0
"""How long the database may take to say who serves."""

PASSING_S = 10.0
"""For so long a command tries again while a server is stopping or starting: a clean stop takes 5 s at most."""

TRY_AGAIN_S = 0.2
"""Between two tries."""


_ONLY_ASKS = "/v1/users:batchGet"
"""A POST that changes nothing: it may be sent again."""


class Passing(CouldNotLook):
    """The server cannot be asked at this moment, because it is stopping or starting; nothing was done."""


def ask(
    settings: Settings, question: Callable[["LiveServer"], Model], alone: Callable[[], Model]
) -> tuple[Model, bool]:
    """Have a question answered: by the live server, or where none lives by the store alone.

    Returns:
        The answer, and whether a server gave it.

    Raises:
        StoreError: the store cannot be used.
        CouldNotLook: a server lives, but does not answer, also not after it had some seconds to stop and to start.
    """
    ends_s: float | None = None
    while True:
        try:
            server = find_server(settings)
            if server is not None:
                return question(server), True
            if ends_s is None or time.monotonic() > ends_s:
                return alone(), False
        except Passing as error:
            if ends_s is None:
                ends_s = time.monotonic() + PASSING_S
                complain(f"{error}: trying again for {PASSING_S:g} s")
            elif time.monotonic() > ends_s:
                raise
        time.sleep(TRY_AGAIN_S)


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
    node = None if path is None else await _glance(path, unix_ms())
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
        state: what its state file says.
    """

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def get(self, path: str, model: type[Model]) -> Model:
        """Ask.

        Raises:
            Passing: it is stopping, or starting.
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
            Passing: the server is stopping, or starting.
            CouldNotLook: it is refused.
            OSError, http.client.HTTPException: it cannot be reached, or the stream breaks.
        """
        connection = self._connection(silent_s)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.read())
            yield iter(response.readline, b"")
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        # Not urllib: it would send the token to a proxy that the environment names.
        address = urlsplit(self.state.address)
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
        if status != 200:
            raise self._refusal(status, text)
        try:
            return model.model_validate_json(text)
        except ValidationError as error:
            raise self._not_ours() from error

    def _refusal(self, status: int, text: bytes) -> CouldNotLook:
        try:
            error = msgspec.json.decode(text, type=dict[str, Any])["error"]
            code, message = str(error["code"]), str(error["message"])
        except (msgspec.MsgspecError, KeyError, TypeError):
            return self._not_ours()
        if code == "shutting_down":
            return Passing(f"{self.name} is stopping or starting")
        if status == 401 and not _is_current(self.state):
            return Passing(f"{self.name} was restarted")
        return CouldNotLook(f"{self.name} refuses: {message}")

    def _not_ours(self) -> CouldNotLook:
        return CouldNotLook(
            f"what answers at {self.state.address} is not this herenow (process {self.state.node.pid}): a proxy, or "
            "herenow of another version; restart the server after an update"
        )

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        connection = self._connection(CONNECT_WITHIN_S)
        is_sent = False
        try:
            connection.connect()
            if isinstance(connection.sock, socket.socket):
                connection.sock.settimeout(ANSWER_WITHIN_S)
            is_sent = True
            connection.request(method, path, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        except TimeoutError as error:
            raise CouldNotLook(f"{self.name} lives, but does not answer: look at its log, or restart it") from error
        except (OSError, http.client.HTTPException) as error:
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
            if is_sent and method != "GET" and not path.startswith(_ONLY_ASKS):
                raise CouldNotLook(
                    f"{self.name} went away over its answer ({reason}): it may have done what it was asked; ask again"
                ) from error
            raise Passing(f"{self.name} cannot be reached ({reason})") from error
        finally:
            connection.close()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.state.token}", "Content-Type": "application/json"}

    @property
    def name(self) -> str:
        """The server, as a person would name it."""
        return _name(self.state)


def find_server(settings: Settings) -> LiveServer | None:
    """Return the live server to ask; ``None`` if none lives, and the store is ours to work on.

    Raises:
        StoreError: the store cannot be read.
        Passing: a server is just stopping, or starting.
        CouldNotLook: a server lives, but this command cannot come in.
    """
    states = list(running_servers(settings.database))
    state = _choose(settings, states)
    if state is None:
        try:
            node = asyncio.run(find_owner(settings))
        except StoreError as error:
            if not states:
                if isinstance(error, StoreNotReady) and "database" not in settings.model_fields_set:
                    raise _nobody_here(error) from error
                raise
            known = ", ".join(map(_name, states))
            raise CouldNotLook(f"{error} There is {known}: name its database with --database") from error
        if node is None:
            return None
        state = next((each for each in states if _is_of(each, node)), None)
        if state is None:
            raise _why_not_found(settings, node)
    if state.phase == "starting":
        why = "" if state.waits_for is None else f", and waits for its database: {state.waits_for.rstrip('.')}"
        raise Passing(f"{_name(state)} is starting{why}")
    if state.phase == "stopping":
        raise Passing(f"{_name(state)} is stopping")
    if not state.address:
        raise CouldNotLook(f"{_name(state)} could open no door for the commands: its log says why")
    return LiveServer(state)


def _nobody_here(error: StoreNotReady) -> CouldNotLook:
    """Say that neither a server of this directory nor the database of the default name is there."""
    kind = CouldNotLook
    directory = state_directory()
    with suppress(OSError):
        if directory is not None and unix_s() - directory.stat().st_mtime < PASSING_S:  # one has just gone
            kind = Passing
    return kind(
        f"no server that was started in this directory is running, and there is no database {error.database} "
        f"({error.reason}): start the server or the application, or name its database with --database "
        "(HERENOW_DATABASE); `herenow init` makes one"
    )


def _choose(settings: Settings, states: list[ServerState]) -> ServerState | None:
    """Choose the server of the database that is named; where none is named, the one that was started here."""
    wanted = identity_of(settings.database, settings.users_collection)
    of_database = [state for state in states if state.database == wanted]
    if of_database:
        return min(of_database, key=lambda state: state.phase == "starting")
    if "database" in settings.model_fields_set:
        return None
    here = [state for state in states if state.directory == os.getcwd()]
    if len(here) > 1:
        known = " or ".join(f"--database {_database(state)}" for state in here)
        raise CouldNotLook(f"{len(here)} servers were started in this directory: say which with {known}")
    return here[0] if here else None


def _is_of(state: ServerState, node: Node) -> bool:
    """Whether a state file and a row are of one server."""
    return (state.node.name, state.node.epoch, state.node.pid) == (node.name, node.epoch, node.pid)


def _is_current(state: ServerState) -> bool:
    """Whether the server is still the one that wrote this."""
    return any(each.token == state.token for each in running_servers(state.database))


def _why_not_found(settings: Settings, node: Node) -> CouldNotLook:
    """Say why a server that owns the store cannot be asked from here."""
    owner = f"a server owns the store ({_describe(node)})"
    if node.host != socket.gethostname():
        return CouldNotLook(f"{owner}: run this command on {node.host}")
    if runs_here(node) and unix_s() - node.started_ms / 1000 < PASSING_S:
        return Passing(f"{owner}, and is starting")
    file = beside(settings.database)
    where = "" if file is None or not file.exists() else f", and its state file {file} cannot be read"
    return CouldNotLook(
        f"{owner}, and does not let this user in{where}: run this command as the server's own user, with the same "
        "HOME and XDG_STATE_HOME"
    )


def _name(state: ServerState) -> str:
    at = f" at {state.address}" if state.address else ""
    return f"the server of {_database(state)}{at} (process {state.node.pid})"


def _database(state: ServerState) -> str:
    return state.database.partition(" ")[0]


def _describe(node: Node) -> str:
    return f"process {node.pid} on {node.host}, last beat {to_iso(node.beat_ms)}"
