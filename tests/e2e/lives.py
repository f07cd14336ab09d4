"""Foreign clients in processes of their own, which tell of themselves and do what they are told."""

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from support import ROOT

JAVA_LIBRARIES = ROOT / "build/java"
"""Where ``make check-clients`` puts the Java client."""

PROGRAMS: dict[str, tuple[str, ...]] = {
    "JavaScript": ("node", "node/life.mjs"),
    "python-socketio AsyncClient": (sys.executable, "-m", "e2e.life", "async"),
    "python-socketio Client": (sys.executable, "-m", "e2e.life", "sync"),
    "Java": ("java", "-cp", f"{JAVA_LIBRARIES}/*", "java/Life.java"),
}
"""How each client is started, in ``tests/``."""


class Life:
    """One client of a user.

    Attributes:
        happened: what it told of itself, in order.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.happened: list[str] = []
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    def of(cls, client: str, url: str, transports: str, user: str) -> contextlib.AbstractAsyncContextManager["Life"]:
        """Start a client, and kill it in the end."""
        return cls.lived(*PROGRAMS[client], url, transports, user)

    @classmethod
    @contextlib.asynccontextmanager
    async def lived(cls, *command: str) -> AsyncIterator["Life"]:
        """Start a program that tells of itself, and kill it in the end."""
        life = cls(
            await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT / "tests",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )
        try:
            yield life
        finally:
            life.kill()
            await life._process.wait()
            await life._reading

    def tell(self, line: str) -> None:
        """Say to it what to do; a client can ``leave``, ``disconnect`` and ``exit``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def kill(self) -> None:
        """``kill -9``."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def freeze(self) -> None:
        """Stop it, as a browser stops a page that sleeps."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.happened.append(line.decode().strip())


@contextlib.asynccontextmanager
async def page_of_the_example(url: str, token: str, user: str) -> AsyncIterator[Life]:
    """The ``presence.js`` of ``examples/mongo_nextjs`` with the stock client; see ``tests/node/page.mjs``."""
    # Beside the client's own package, where Node finds it.
    with tempfile.TemporaryDirectory(dir=ROOT / "tests/node", prefix=".page-") as directory:
        shutil.copy(ROOT / "examples/mongo_nextjs/presence.js", Path(directory, "presence.mjs"))
        program = shutil.copy(ROOT / "tests/node/page.mjs", directory)
        async with Life.lived("node", program, url, token, user) as page:
            yield page
