"""The server's process: one socket, one event loop, and an end that keeps its promises.

The end: a signal tells the clients and closes them; uvicorn gives what is left of the connections a second; then
everyone is written offline, for which the store has three. A watchdog ends what still hangs after that.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi_offline import FastAPIOffline
from starlette.staticfiles import StaticFiles

from herenow.cli import logs
from herenow.cli.certificate import check_certificate
from herenow.cli.limits import raise_file_limit
from herenow.cli.output import COULD_NOT_LOOK, FOUND, GOOD, at_the_end, complain, out
from herenow.errors import StoreError
from herenow.http.api import answer_in_our_form
from herenow.http.headers import DOCS, SecurityHeaders
from herenow.http.patience import patient
from herenow.logs import get_logger
from herenow.mounting import Mounted
from herenow.presence import Presence
from herenow.settings import Settings, is_loopback
from herenow.socketio_server import FastWebSocket
from herenow.store.address import without_secrets
from herenow.version import VERSION

CONNECTIONS_END_S = 1
"""How long connections have to end by themselves."""

SOCKET_IO = "/socket.io/"

COUNT_S = 2
"""How long the greeting waits for the number of users."""

LAST_WORDS_S = 0.05
"""How long an end at once waits for its line in the log, and for the greeting."""

END_S = 4.8
"""After this the process ends, whatever hangs: a supervisor's own patience is longer."""

log = get_logger("herenow.serve")


def run(settings: Settings, *, page: Path | None, log_level: str) -> int:
    """Serve until a signal, or until another server takes the store over. Returns the exit code.

    Raises:
        HerenowError: it cannot be started.
    """
    voice = logs.Voice(log_level)
    voice.begin()
    at_the_end(voice.flush)
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        complain(_why_not_listening(settings, error))
        return COULD_NOT_LOOK
    with listener:
        process = _Process(settings, listener, page, voice)
        with asyncio.Runner(loop_factory=process.config.get_loop_factory()) as runner:
            runner.run(process.serve())
    return GOOD if process.lost is None else FOUND


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket, before anything else is touched.

    Raises:
        OSError: it cannot be bound, or there is no such host.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let a second server in
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket, scheme: str) -> str:
    """The address under which programs on this machine reach a listening socket."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


DOCS_FILES = "/docs-files"
"""Where the page of the API has its script from."""

COLLECTIONS = (10_000, 10, 10)
"""When garbage is collected: after so many new objects that are still there, of so many such collections a middle one,
of so many of those a full one. Python's own are 700, 10 and 10: a crowd that comes in would be looked through again and
again, and nothing found: an ended connection leaves no cycles (``tests/test_garbage.py``). A full collection stops
everybody for 50 ms with a thousand connections."""


class _Server(uvicorn.Server):
    """uvicorn's server, with our signals."""

    def __init__(self, config: uvicorn.Config, process: "_Process") -> None:
        super().__init__(config)
        self._process = process

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then leave what is loaded by now out of all later garbage collections."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTIONS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the lifespan also after a second signal: uvicorn has its task cancelled, with a traceback."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in our order on SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._process.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


class _Process:
    """What runs.

    Attributes:
        config: uvicorn's.
        lost: why the store is not ours any more.
    """

    def __init__(self, settings: Settings, listener: socket.socket, page: Path | None, voice: logs.Voice) -> None:
        self.lost: StoreError | None = None
        self._settings = settings
        self._listener = listener
        self._page = page
        self._presence = Presence(settings.database, **_given(settings))
        self._voice = voice
        voice.count_lost(self._presence.meters.lines_dropped.inc)
        self._app = FastAPIOffline(
            DOCS, None, title="herenow", version=VERSION, description="Who is online, right now.", static_url=DOCS_FILES
        )
        self._mounted = Mounted(self._presence, self._app, path=SOCKET_IO)
        answer_in_our_form(self._app)
        if page is not None:
            self._app.mount("/", StaticFiles(directory=page, html=True))
        password = settings.tls_keyfile_password
        self.config = uvicorn.Config(
            SecurityHeaders(self._app, transport=SOCKET_IO),
            loop="uvloop" if os.name == "posix" else "asyncio",
            http=patient(
                settings.request_timeout_s,
                lambda what: self._presence.meters.cut.labels(what).inc(),
                self._presence.supervisor.failed,
            ),
            ws=FastWebSocket,
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=CONNECTIONS_END_S,
            ssl_certfile=settings.tls_certfile,
            ssl_keyfile=settings.tls_keyfile,
            ssl_keyfile_password=None if password is None else password.get_secret_value(),
        )
        check_certificate(settings)
        self._server = _Server(self.config, self)

    async def serve(self) -> None:
        """Serve until told to stop; then everyone is offline.

        Raises:
            StoreError: the store cannot be used.
        """
        address = address_of(self._listener, "https" if self.config.is_ssl else "http")
        async with self._mounted.running(address, on_lost=self._stop_lost) as state:
            self._app.router.lifespan_context = lambda _: contextlib.nullcontext(state)
            raise_file_limit(self._settings.max_connections)
            await self._greet(address)
            await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """Tell the clients, then let uvicorn end. A second call does not wait for connections."""
        if self._server.should_exit:
            self._server.force_exit = True
            return
        self._server.should_exit = True
        # A thread, for it is the loop that may hang, or what comes after it.
        watchdog = threading.Timer(END_S, self._end_at_once)
        watchdog.daemon = True
        watchdog.start()
        log.info("stopping")
        self._mounted.stop()

    def _end_at_once(self) -> None:
        """Leave without a clean-up: what the store lacks, the next start reconciles."""
        log.critical("something hangs: ending at once", after_s=END_S)
        self._voice.flush(LAST_WORDS_S)
        os._exit(FOUND)

    def _stop_lost(self, error: StoreError) -> None:
        self.lost = error
        complain(f"stopped: {error}")
        self.stop()

    async def _greet(self, address: str) -> None:
        settings = self._settings
        try:
            async with asyncio.timeout(COUNT_S):
                users = f"{(await self._presence.store.counts()).users:,} users"
        except (StoreError, TimeoutError) as error:
            users = "which cannot be read now"
            log.warning("the store cannot be read", error=str(error) or "timed out")
        out.print(f"[bold]herenow {VERSION}[/]  {address}" + _beyond(settings))
        lines = {
            "store": f"{self._presence.store.name} ({users})",
            "promises": f"a closed tab shows within {settings.offline_within_s:g} s, a silent network loss within "
            f"{settings.silent_loss_s:g} s,\nno ghost later than {settings.restart_grace_s:g} s after a crash and "
            "restart",
            "try it": self._how_to_try(address),
            "api": f"{address}/docs",
            "watch it": f"herenow watch{self._which_database()}, herenow status{self._which_database()}",
        }
        for name, text in lines.items():
            out.print(f"  [dim]{name:<9}[/] " + text.replace("\n", "\n" + " " * 12), markup=True, soft_wrap=True)
        if settings.dev:
            out.print("  [yellow]dev[/]       any userId is believed, from this machine only")
        out.file.flush()

    def _which_database(self) -> str:
        database = self._settings.database
        return "" if database == DEFAULT else f" --database {without_secrets(database)}"

    def _how_to_try(self, address: str) -> str:
        if self._page is not None:
            return f"open {address}/ in two tabs"
        auth = '{ userId: "alice" }' if self._settings.dev else "{ token }"
        return f'io("{address}", {{ auth: {auth} }})   with the stock socket.io-client'


DEFAULT = Settings.model_fields["database"].default


def _given(settings: Settings) -> dict[str, Any]:
    """The settings, to be given on as they are: read once, from one place."""
    return {name: getattr(settings, name) for name in Settings.model_fields if name != "database"}


def _beyond(settings: Settings) -> str:
    return "" if is_loopback(settings.host) else f"  (listening on {settings.host}: reachable from other machines)"


def _why_not_listening(settings: Settings, error: OSError) -> str:
    where = f"{settings.host}:{settings.port}"
    if isinstance(error, socket.gaierror):
        return f"there is no address {settings.host} to listen on"
    reason = (error.strerror or str(error)).lower()
    if "in use" in reason:
        return f"{where} is in use by another program: stop it, or choose another port with --port"
    return f"cannot listen on {where}: {reason}"
