"""``herenow serve --workers N``: several processes serve one port of one machine, each a node of the cluster.

This one only looks after them: it starts again who has ended, renews them one after the other (SIGHUP), and ends them
all (SIGTERM, Ctrl-C). They end by themselves when it does.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from herenow.cli import logs
from herenow.cli.output import COULD_NOT_LOOK, GOOD, at_the_end, complain
from herenow.cli.renewal import try_new_code
from herenow.errors import SettingsInvalid
from herenow.logs import get_logger
from herenow.settings import Settings
from herenow.socketio_server.on_uvicorn.siblings import MARKS

log = get_logger("herenow.serve")

WORKER: Final = "HERENOW_WORKER"
"""How a worker is told which one it is."""

READY_WITHIN_S: Final = 30.0
"""A renewal waits so long for a new worker to serve, and then goes on with the next."""

ENDS_WITHIN_S: Final = 6.0
"""A worker that has not ended by itself is killed."""

AGAIN_S: Final = 1.0
"""Before a worker is started again that has ended; it doubles with each further time within ``WELL_S``, to 30 s."""

WELL_S: Final = 30.0


class Worker(NamedTuple):
    """Which worker this process is.

    Attributes:
        number: from 0.
        many: how many there are.
        port: that all of them serve.
        directory: where their own sockets are.
        lifeline: a descriptor that ends when the process does that looks after them.
    """

    number: int
    many: int
    port: int
    directory: Path
    lifeline: int

    @classmethod
    def of_environment(cls) -> "Worker | None":
        """Read which one this process is; ``None``: none. Once: what it starts is none."""
        text = os.environ.pop(WORKER, "")
        if not text:
            return None
        number, many, port, lifeline, directory = text.split(":", 4)
        return cls(int(number), int(many), int(port), Path(directory), int(lifeline))

    def to_environment(self) -> str:
        """Write it, for :meth:`of_environment`."""
        return f"{self.number}:{self.many}:{self.port}:{self.lifeline}:{self.directory}"

    def listen(self, host: str) -> socket.socket:
        """Listen on the port of all.

        Raises:
            OSError: it cannot be bound.
        """
        listener = _bind(host, self.port)
        listener.listen(2048)
        return listener


def run_workers(settings: Settings, many: int, *, log_level: str) -> int:
    """Run workers until a signal. Returns the exit code.

    Raises:
        SettingsInvalid: they would not know of each other.
    """
    if settings.cluster is None:
        raise SettingsInvalid(
            "several workers share who is online by way of a Redis: set HERENOW_CLUSTER, as in "
            "redis://localhost:6379; one process alone needs none"
        )
    if not 1 <= many <= len(MARKS):
        raise SettingsInvalid(f"workers must be from 1 to {len(MARKS)}")
    if not hasattr(socket, "SO_REUSEPORT"):
        raise SettingsInvalid("this system does not let several processes listen on one port: start one node each")
    try:
        place = _bind(settings.host, settings.port)
    except OSError as error:
        complain(f"{settings.host}:{settings.port} cannot be listened on: {(error.strerror or str(error)).lower()}")
        return COULD_NOT_LOOK
    voice = logs.Voice(log_level)
    voice.begin()
    at_the_end(voice.flush)
    with place, _directory() as directory:
        return asyncio.run(_Workers(settings, many, place.getsockname()[1], directory).run())


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="herenow-workers-"))  # for this user alone
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Workers:
    def __init__(self, settings: Settings, many: int, port: int, directory: Path) -> None:
        self._settings = settings
        self._many = many
        self._port = port
        self._directory = directory
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._is_ending = asyncio.Event()
        self._renewal: asyncio.Task[None] | None = None
        self._renewed: asyncio.subprocess.Process | None = None  # the one that ends so that a new one begins
        self._lifeline, self._held = os.pipe()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._is_ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._renew)
        keeping = [asyncio.create_task(self._keep(number)) for number in range(self._many)]
        ended = asyncio.create_task(self._is_ending.wait())
        await asyncio.wait([ended, *keeping], return_when=asyncio.FIRST_COMPLETED)
        self._is_ending.set()
        await asyncio.gather(*(self._end(process) for process in tuple(self._running.values())))
        codes = await asyncio.gather(*keeping)
        os.close(self._held)
        return next((code for code in codes if code), GOOD)

    async def _keep(self, number: int) -> int:
        """Keep a worker alive; returns how it ended for good."""
        loop, pause_s = asyncio.get_running_loop(), AGAIN_S
        while not self._is_ending.is_set():
            began_s = loop.time()
            place = self._directory / f"{number}.http"
            place.unlink(missing_ok=True)
            try:
                process = self._running[number] = await self._start(number)
            except OSError as error:
                log.error("a worker cannot be started now", worker=number, error=error.strerror or str(error))
                await self._pause(AGAIN_S)
                continue
            if self._is_ending.is_set():  # it was not there yet to be ended with the others
                await self._end(process)
            code = await process.wait()
            if self._is_ending.is_set():
                return GOOD if code == -signal.SIGTERM else code
            if code == COULD_NOT_LOOK and not place.exists():  # it never served, and has said why it cannot
                return code
            if process is not self._renewed:
                log.error("a worker has ended, and is started again", worker=number, code=code)
                pause_s = AGAIN_S if loop.time() - began_s > WELL_S else min(2 * pause_s, WELL_S)
                await self._pause(pause_s)
        return GOOD

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_ending.wait(), seconds)

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        worker = Worker(number, self._many, self._port, self._directory, self._lifeline)
        environment = {**os.environ, WORKER: worker.to_environment()}
        if self._settings.node_name is not None:
            environment["HERENOW_NODE_NAME"] = f"{self._settings.node_name}-{number}"
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *sys.orig_argv[1:],
            env=environment,
            pass_fds=(self._lifeline,),
            start_new_session=True,  # the terminal's Ctrl-C is for this process, which ends them in order
        )

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(ENDS_WITHIN_S):
                await process.wait()
        except TimeoutError:
            log.error("a worker hangs, and is killed", pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _renew(self) -> None:
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew_all(), name="herenow renewal")
        else:
            log.warning("a renewal is under way already")

    async def _renew_all(self) -> None:
        """One after the other: the others have its clients meanwhile."""
        log.info("trying the new code")
        if (reason := await try_new_code(f"{self._settings.host}:{self._port}")) is not None:
            log.error("not renewed: the new code would not start, and this one goes on", reason=reason)
            return
        for number in range(self._many):
            old = self._renewed = self._running.get(number)
            if old is None:
                continue  # it is just being started
            (self._directory / f"{number}.http").unlink(missing_ok=True)
            await self._end(old)
            await self._until_serving(number)
        log.info("renewed", workers=self._many)

    async def _until_serving(self, number: int) -> None:
        ends_s = asyncio.get_running_loop().time() + READY_WITHIN_S
        while asyncio.get_running_loop().time() < ends_s and not self._is_ending.is_set():
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_unix_connection(str(self._directory / f"{number}.http"))
                writer.close()
                return
            await asyncio.sleep(0.05)
