"""A network in trouble: a relay between clients and a server, which can cut, go silent, and be slow."""

import asyncio
import contextlib

CHUNK = 4096


class Relay:
    """Carries bytes between its own port and another, both on loopback.

    Args:
        to_port: of the server.

    Attributes:
        port: where clients connect.
        bytes_per_s: what each connection carries in each direction; ``None`` is all it can.
        lost: bytes of answers that were lost, since :meth:`lose_answers`.
    """

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self.port = 0
        self.bytes_per_s: float | None = None
        self.lost = 0
        self._loses = False

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all, and listen no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        self._flows.set()
        await asyncio.gather(*self._carrying)

    def cut(self) -> None:
        """Reset every connection, on both sides. Those to come lose nothing."""
        self._loses = False
        for writer in list(self._writers):
            writer.transport.abort()

    def lose_answers(self) -> None:
        """Let what the server says get lost, until :meth:`cut`."""
        self._loses, self.lost = True, 0

    def silence(self) -> None:
        """Carry nothing more, and lose nothing, until :meth:`resume`."""
        self._flows.clear()

    def resume(self) -> None:
        """Carry again, what has waited first."""
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        self._writers.add(writer)
        try:
            await self._flows.wait()
            there, to_server = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(to_server)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, to_server))
                group.create_task(self._carry(there, writer, are_answers=True))
        finally:
            for each in (writer, to_server):
                each.transport.abort()
                self._writers.discard(each)

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, are_answers: bool = False
    ) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the latter is uvloop's, of a sink that was cut
            while data := await source.read(CHUNK):
                await self._flows.wait()
                if are_answers and self._loses:
                    self.lost += len(data)
                    continue
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                sink.write(data)
                await sink.drain()
            await self._flows.wait()
            sink.write_eof()
            return
        sink.transport.abort()
