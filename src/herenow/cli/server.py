"""The server's process: one socket, one event loop, and an end that keeps its promises.

The end: a signal tells the clients and closes them; uvicorn gives what is left of the connections a second; then
everyone is written offline, for which the store has three. A watchdog ends what still hangs after that.
"""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi_offline import FastAPIOffline
from starlette.staticfiles import StaticFiles

from herenow.cli import logs
from herenow.cli.certificate import check_certificate
from herenow.cli.descriptors import Descriptors
from herenow.cli.greeting import greet
from herenow.cli.limits import raise_file_limit
from herenow.cli.output import COULD_NOT_LOOK, FOUND, GOOD, at_the_end, complain
from herenow.cli.renewal import Renewed, Terminal, become_new, hear_signals, hold_signals, take_over, try_new_code
from herenow.cli.starting import Starting
from herenow.cli.workers import Worker
from herenow.errors import HerenowError, RegistryUnavailable, StoreError
from herenow.http.api import answer_in_our_form
from herenow.http.headers import DOCS, SecurityHeaders
from herenow.http.patience import patient
from herenow.http.prefix import Prefix
from herenow.logs import get_logger
from herenow.mounting import Mounted
from herenow.presence import Presence
from herenow.progress import keep_little_unsent
from herenow.settings import Settings
from herenow.socketio_server import FastWebSocket
from herenow.socketio_server.engineio.addresses import BehindProxies, Proxies
from herenow.socketio_server.on_uvicorn.siblings import Siblings
from herenow.times import unix_ms
from herenow.version import VERSION

CONNECTIONS_END_S = 1
"""How long connections have to end by themselves."""

SOCKET_IO = "/socket.io/"

SAY_AGAIN_S = 30.0
"""How often a start that waits says so."""

LAST_WORDS_S = 0.05
"""How long an end at once waits for its line in the log, and for the greeting."""

END_S = 4.8
"""After this the process ends, whatever hangs: a supervisor's own patience is longer."""

log = get_logger("herenow.serve")


def run(settings: Settings, *, page: Path | None, log_level: str, worker: Worker | None = None) -> int:
    """Serve until a signal, or until another server takes the store over. Returns the exit code.

    SIGHUP renews it in place; see :mod:`herenow.cli.renewal`.

    Raises:
        HerenowError: it cannot be started.
    """
    voice = logs.Voice(log_level)
    voice.begin()
    at_the_end(voice.flush)
    handed, life = take_over()
    try:
        listener = _taken_or_new(handed, settings) if worker is None else worker.listen(settings.host)
    except OSError as error:
        complain(why_not_listening(settings, error))
        return COULD_NOT_LOOK
    with listener:
        process = _Process(settings, listener, page, voice, life, worker)
        with asyncio.Runner(loop_factory=process.config.get_loop_factory()) as runner:
            try:
                runner.run(process.serve())
            except asyncio.CancelledError:  # SIGTERM, before there was anything to end
                return GOOD
        if process.next_life is not None:
            log.info("renewing")
            voice.flush(LAST_WORDS_S)
            process.terminal.hand_on()
            become_new(listener, process.next_life)
    return GOOD if process.lost is None else FOUND


def _taken_or_new(handed: socket.socket | None, settings: Settings) -> socket.socket:
    """Go on to listen where the code before did, unless another address is wanted now."""
    if handed is not None:
        wanted = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][4]
        if settings.port == 0 or handed.getsockname()[:2] == wanted[:2]:
            return handed
        handed.close()
    return listen(settings.host, settings.port)


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
        keep_little_unsent(listener)
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
        if self._process.is_worker:  # whoever looks after the workers renews them
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        else:
            loop.add_signal_handler(signal.SIGHUP, self._process.renew)
        yield  # SIGTERM is heard to the end: it makes a renewal an end


class Waiting:
    """Says in the log what a start waits for: at first, when that changes, and now and then."""

    def __init__(self) -> None:
        self._said = ""
        self._at_s = 0.0

    def tell(self, error: HerenowError) -> None:
        """Say it, unless it was said a moment ago."""
        now_s = time.monotonic()
        if str(error) != self._said or now_s - self._at_s > SAY_AGAIN_S:
            self._said, self._at_s = str(error), now_s
            is_redis = isinstance(error, RegistryUnavailable)
            log.warning("waiting for Redis" if is_redis else "waiting for the database", error=self._said)


class _Process:
    """What runs.

    Attributes:
        config: uvicorn's.
        lost: why the store is not ours any more.
        next_life: what the new code is to go on with; ``None``: this is the end.
        terminal: on which it was started.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        page: Path | None,
        voice: logs.Voice,
        life: Renewed | None,
        worker: Worker | None,
    ) -> None:
        self._worker = worker
        self._siblings = None if worker is None else Siblings(worker.directory, worker.number, worker.many)
        self._given: set[asyncio.Task[None]] = set()
        self.lost: StoreError | None = None
        self.next_life: Renewed | None = None
        self._life = life
        self._ends_at_once = False
        self.terminal = Terminal()
        self._renewal: asyncio.Task[None] | None = None
        self._handing_on: asyncio.Task[None] | None = None
        self._watchdog: threading.Timer | None = None
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
        self._mounted.gateway.server.engine.siblings = self._siblings
        self._mounted.renews_by_signal = os.name == "posix" and worker is None  # that is the business of who starts it
        answer_in_our_form(self._app)
        if page is not None:
            self._app.mount("/", StaticFiles(directory=page, html=True))
        meters = self._presence.meters
        self._descriptors = Descriptors(meters)
        password = settings.tls_keyfile_password
        self.config = uvicorn.Config(
            BehindProxies(
                Prefix(SecurityHeaders(self._app, transport=SOCKET_IO), settings.root_path),
                Proxies(settings.trusted_proxies),
            ),
            proxy_headers=False,  # uvicorn's own rule for them, which trusts others, and knows only HTTP
            loop="uvloop" if os.name == "posix" else "asyncio",
            http=patient(
                settings.request_timeout_s,
                lambda what: meters.cut.labels(what).inc(),
                self._descriptors.may_stay,
                clock=self._presence.steady,
                on_fault=self._presence.supervisor.failed,
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

    @property
    def is_worker(self) -> bool:
        """Whether it is one of several that serve a port."""
        return self._worker is not None

    async def serve(self) -> None:
        """Serve until told to stop; then everyone is offline.

        Raises:
            StoreError: the store cannot be used.
        """
        address = address_of(self._listener, "https" if self.config.is_ssl else "http")
        task = asyncio.current_task()
        if task is not None and os.name == "posix":  # until uvicorn runs: the start may wait for the database
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self._end_of_start, task)
            loop.add_signal_handler(signal.SIGHUP, self._hang_up_of_start, task)
            hear_signals()
            if self._worker is not None:
                loop.add_reader(self._worker.lifeline, self._let_go, task)
        self.config.load()
        waiting = Waiting()
        async with Starting(self._listener, self.config.ssl) as starting:

            def wait(error: HerenowError) -> None:
                waiting.tell(error)
                starting.begin()

            running = self._mounted.running(address, on_lost=self._stop_lost, on_waiting=wait, renews=self._life)
            async with running as state:
                await starting.end()
                if not self._ends_at_once:
                    await self._serve(address, state)
            if self.next_life is not None:
                hold_signals()

    def _end_of_start(self, task: "asyncio.Task[Any]") -> None:
        """End before it serves. Whom the code before left online is first adopted, to be written offline."""
        if self._life is None:
            task.cancel()
        self._ends_at_once = True

    def _hang_up_of_start(self, task: "asyncio.Task[Any]") -> None:
        """Renew nothing, for it starts just now; but a terminal that has gone is the end."""
        if self.terminal.has_gone() and self.terminal.is_needed:
            self._end_of_start(task)

    async def _serve(self, address: str, state: dict[str, Any]) -> None:
        self._app.router.lifespan_context = lambda _: contextlib.nullcontext(state)
        raise_file_limit(self._settings.max_connections)
        if self._worker is None or not self._worker.number:  # the first one speaks for all
            await greet(self._presence, address, self._page)
        self._descriptors.watch()
        sockets = [self._listener.dup()]  # it closes its own: ours may be handed on
        if self._worker is not None and self._siblings is not None:
            asyncio.get_running_loop().add_reader(self._worker.lifeline, self._let_go, None)
            sockets.append(self._siblings.listen())
            self._siblings.begin(self._take_connection)
        try:
            await self._server.serve(sockets=sockets)
        finally:
            self._descriptors.stop()
            if self._siblings is not None:
                self._siblings.end()

    def _let_go(self, start: "asyncio.Task[Any] | None") -> None:
        """Whoever looks after the workers has gone: this one goes too, be it that it only starts."""
        if self._worker is not None:
            asyncio.get_running_loop().remove_reader(self._worker.lifeline)
            self.stop() if start is None else self._end_of_start(start)

    def _take_connection(self, connection: socket.socket, head: bytes) -> None:
        """Take a WebSocket over from another worker, whose request it has read."""
        task = asyncio.create_task(self._serve_connection(connection, head), name="herenow takes a WebSocket over")
        self._given.add(task)
        task.add_done_callback(self._given.discard)

    async def _serve_connection(self, connection: socket.socket, head: bytes) -> None:
        server = self._server
        protocol = FastWebSocket(self.config, server.server_state, server.lifespan.state)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except OSError:  # it has gone meanwhile
            connection.close()
            return
        protocol.data_received(head)

    def renew(self) -> None:
        """See that the new code would start; then stop, to become it. If the terminal has gone, it may be the end."""
        if self.terminal.has_gone():
            self._go_without_terminal()
        elif self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), name="herenow renewal")
        else:
            log.warning("a renewal is under way already")

    async def _renew(self) -> None:
        log.info("trying the new code")
        self._mounted.not_renewed(None)
        reason = await try_new_code(f"{self._settings.host}:{self._settings.port}")
        if self._server.should_exit or self._handing_on is not None:
            return
        if self.terminal.has_gone():  # the shell may hang up before its terminal goes
            self._go_without_terminal()
            return
        if reason is not None:
            log.error("not renewed: the new code would not start, and this one goes on", reason=reason)
            self._mounted.not_renewed(reason)
            return
        node = self._presence.node
        self.next_life = Renewed(node.epoch, unix_ms())
        self._mounted.to_renew = True
        self._end()

    def _go_without_terminal(self) -> None:
        if self.terminal.is_needed:
            self.stop()
        else:
            log.info("the terminal has gone, and is not needed")

    def stop(self) -> None:
        """Tell the clients, then let uvicorn end. A second call does not wait for connections."""
        self.next_life, self._mounted.to_renew = None, False
        self._listener.close()  # uvicorn closes its own: nobody is to wait in the queue
        if self._handing_on is None and not self._server.should_exit and self._mounted.can_hand_on():
            self._watch_end()
            self._handing_on = asyncio.create_task(self._hand_on(), name="herenow hands its users on")
        else:
            self._end()

    async def _hand_on(self) -> None:
        """Let the other nodes of the cluster take the clients, some at a time; then end."""
        try:
            for server in getattr(self._server, "servers", ()):  # there are none before it serves
                server.close()
            await self._mounted.gateway.hand_on(self._settings.drain_s)
        except Exception as error:  # the end comes all the same
            self._presence.supervisor.failed("handing on", error)
        finally:
            self._end()

    def _end(self) -> None:
        if self._server.should_exit:
            self._server.force_exit = True
            return
        self._server.should_exit = True
        self._watch_end()
        log.info("stopping")
        self._mounted.stop()

    def _watch_end(self) -> None:
        """End at once if the end takes too long. A thread, for it is the loop that may hang, or what comes after it."""
        if self._watchdog is None:
            self._watchdog = threading.Timer(END_S, self._end_at_once)
            self._watchdog.daemon = True
            self._watchdog.start()

    def _end_at_once(self) -> None:
        """Leave without a clean-up: what the store lacks, the next start reconciles."""
        log.critical("something hangs: ending at once", after_s=END_S)
        self._voice.flush(LAST_WORDS_S)
        os._exit(FOUND)

    def _stop_lost(self, error: StoreError) -> None:
        self.lost = error
        complain(f"stopped: {error}")
        self.stop()


def _given(settings: Settings) -> dict[str, Any]:
    """The settings, to be given on as they are: read once, from one place."""
    return {name: getattr(settings, name) for name in Settings.model_fields if name != "database"}


def why_not_listening(settings: Settings, error: OSError) -> str:
    where = f"{settings.host}:{settings.port}"
    if isinstance(error, socket.gaierror):
        return f"{settings.host} is no address: give --host one of this machine's, such as 127.0.0.1 or 0.0.0.0 for all"
    reason = (error.strerror or str(error)).lower()
    if "in use" in reason:
        return f"{where} is in use by another program: stop it, or choose another port with --port"
    if isinstance(error, PermissionError):
        return f"this user may not listen on {where}: choose a port above 1023 with --port, behind a proxy"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{settings.host} is no address of this machine: give --host 127.0.0.1, or 0.0.0.0 for all it has"
    return f"cannot listen on {where}: {reason}"
