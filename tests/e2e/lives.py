"""Foreign clients in processes of their own, which tell of themselves and do what they are told."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

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
    @contextlib.asynccontextmanager
    async def of(cls, client: str, url: str, transports: str, user: str) -> AsyncIterator["Life"]:
        """Start a client, and kill it in the end."""
        life = cls(
            await asyncio.create_subprocess_exec(
                *(*PROGRAMS[client], url, transports, user),
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
        """Have it ``leave``, ``disconnect`` or ``exit``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def kill(self) -> None:
        """``kill -9``."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.happened.append(line.decode().strip())
