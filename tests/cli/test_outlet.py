"""What a server says goes by a thread: with a real pipe that is full, whose reader is gone, or that others share."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from herenow.cli import outlet
from herenow.cli.outlet import Outlet, Stream


class Pipe:
    """A pipe of one page, and what was dropped on the way to it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        self.dropped = 0
        self.outlet: Outlet[str] = Outlet(
            self.writer, lambda items: "".join(items).encode(), lambda lines: f"{lines} lines dropped\n".encode()
        )
        self.outlet.on_dropped = self.count

    def count(self, lines: int) -> None:
        self.dropped += lines

    def read(self) -> str:
        return os.read(self.reader, 1 << 20).decode()

    def read_until(self, ending: str) -> str:
        text = ""
        while not text.endswith(ending):
            text += self.read()
        return text


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for fd in (pipe.reader, pipe.writer):
        try:
            os.close(fd)
        except OSError:
            pass


def wait_for(condition: Callable[[], object]) -> None:
    ends_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def test_lines_come_out_in_their_order(pipe: Pipe) -> None:
    for n in range(250):
        pipe.outlet.put(f"line {n}\n")
    assert pipe.read_until("line 249\n") == "".join(f"line {n}\n" for n in range(250))
    assert pipe.outlet.flush(10)
    assert pipe.outlet.dropped == 0


def test_a_pipe_that_is_full_keeps_nobody_and_what_was_dropped_is_said_when_it_flows_again(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "MOST_WAITING", 50)
    pipe.outlet.put("x" * 10_000 + "\n")
    wait_for(lambda: pipe.outlet._queue.empty())  # the thread has it, and the pipe takes no more
    began_s = time.monotonic()
    for n in range(1_000):
        pipe.outlet.put(f"line {n}\n")
    assert not pipe.outlet.flush(0.05)
    assert time.monotonic() - began_s < 5
    assert 0 < pipe.dropped == pipe.outlet.dropped
    said = f"{pipe.dropped} lines dropped\n"
    text = pipe.read_until(said)
    assert text.count("line ") == 1_000 - pipe.dropped
    assert text.count("dropped") == 1
    pipe.outlet.put("on it goes\n")
    assert pipe.read_until("on it goes\n") == "on it goes\n"


def test_a_pipe_whose_reader_is_gone_and_then_one_that_is_there_again(pipe: Pipe) -> None:
    """As with a full disk: each line is lost, and counted, until it can be written; a line that was cut ends."""
    os.close(pipe.reader)
    for n in range(20):
        pipe.outlet.put(f"line {n}\n")
    assert pipe.outlet.flush(10)
    assert pipe.dropped == 20
    pipe.reader, writer = os.pipe()
    os.dup2(writer, pipe.writer)
    os.close(writer)
    pipe.outlet.put("here again\n")
    assert pipe.read_until("dropped\n") == "here again\n20 lines dropped\n"


def test_a_disk_that_is_full_in_the_middle_of_a_line(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    faults = iter([None, OSError(28, "No space left on device")])

    def write(fd: int, data: bytes) -> int:
        if (fault := next(faults, None)) is not None:
            raise fault
        written.append(bytes(data[:4]) if not written else bytes(data))
        return len(written[-1])

    monkeypatch.setattr("herenow.cli.outlet.os.write", write)
    pipe.outlet.put("a line\n")
    assert pipe.outlet.flush(10)
    assert pipe.dropped == 1
    pipe.outlet.put("another\n")
    assert pipe.outlet.flush(10)
    assert b"".join(written) == b"a li\nanother\n1 lines dropped\n"


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    text = "x" * 20_000 + "\n"
    pipe.outlet.put(text)
    assert pipe.read_until("\n") == text
    assert pipe.dropped == 0


def test_an_item_that_cannot_be_shown_costs_no_other(pipe: Pipe) -> None:
    def render(items: object) -> bytes:
        assert isinstance(items, list)
        return "".join(items).encode()

    pipe.outlet._render = render
    for item in ("before\n", 5, "behind\n"):
        pipe.outlet.put(item)  # type: ignore[arg-type]
    assert pipe.read_until("dropped\n") == "before\nbehind\n1 lines dropped\n"


def test_without_a_descriptor_nothing_is_said_and_no_thread_made() -> None:
    silent: Outlet[str] = Outlet(None, lambda items: b"")
    threads = threading.active_count()
    silent.put("x")
    assert silent.flush(1)
    assert threading.active_count() == threads


def test_a_stream_in_the_place_of_stderr_hands_all_on(pipe: Pipe) -> None:
    with open(pipe.writer, "w", closefd=False) as stream:
        replacement = Stream(stream, pipe.outlet.put)
        print("hello", file=replacement, flush=True)
        replacement.write("")
        assert pipe.read_until("\n") == "hello\n"
        assert (replacement.fileno(), replacement.encoding, replacement.isatty()) == (
            stream.fileno(),
            stream.encoding,
            False,
        )
        assert replacement.writable()
