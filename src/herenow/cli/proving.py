"""Runs the probes of ``herenow test``: all at the same time, on two throw-away servers, one of which is killed."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from rich.live import Live
from rich.spinner import Spinner

from herenow.cli.output import err
from herenow.cli.probes import WHAT, Probes, crash
from herenow.cli.scratch import Scratch
from herenow.cli.verdicts import Result, told


async def prove(scratch: Scratch) -> list[Result]:
    """Run all probes; return what became of each promise.

    Raises:
        CouldNotLook: a throw-away server does not start.
    """
    end_on_sigterm()
    results: list[Result] = []

    def how_far() -> str:
        done = ", ".join(dict.fromkeys(result.promise for result in sorted(results, key=lambda each: each.promise)))
        return f"Proving the promises on a throw-away server (about 20 s) {done}"

    steady, crashing = scratch.server("steady"), scratch.server("crashing")
    with showing(how_far):
        try:
            await asyncio.gather(steady.start(), crashing.start())
            async with Probes(steady, scratch.settings) as probes:
                await probes.run_alone(results.append)
                await asyncio.gather(
                    probes.run_together(results.append),
                    told("P5", WHAT["P5"], crash(crashing, scratch.settings), results.append),
                )
        finally:
            await steady.close()
            await crashing.close()
    return sorted(results, key=lambda result: result.promise)


def end_on_sigterm() -> None:
    """Let SIGTERM end this task as Ctrl-C does, so that what it has made is put away."""
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@contextlib.contextmanager
def showing(how_far: Callable[[], str]) -> Iterator[None]:
    """Show on a terminal how far it is."""
    if not err.is_terminal:
        yield
        return

    spinner = Spinner("dots")

    def frame() -> Spinner:
        spinner.update(text=how_far())
        return spinner

    with Live(get_renderable=frame, console=err, transient=True, refresh_per_second=10):
        yield
