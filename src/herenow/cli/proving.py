"""Runs the probes of ``herenow test``: all at the same time, on two throw-away servers, one of which is killed."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from rich.live import Live
from rich.spinner import Spinner

from herenow.cli.output import err
from herenow.cli.probes import Probes, Result, crash, told
from herenow.cli.scratch import Scratch


async def prove(scratch: Scratch) -> list[Result]:
    """Run all probes; return what became of each promise.

    Raises:
        CouldNotLook: a throw-away server does not start.
    """
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results: list[Result] = []
    steady, crashing = scratch.server("steady"), scratch.server("crashing")
    with _watching(results):
        try:
            await asyncio.gather(steady.start(), crashing.start())
            async with Probes(steady, scratch.settings) as probes:
                await probes.run_alone(results.append)
                await asyncio.gather(
                    probes.run_together(results.append),
                    told("P5", crash(crashing, scratch.settings), results.append),
                )
        finally:
            await steady.close()
            await crashing.close()
    return sorted(results, key=lambda result: result.promise)


@contextlib.contextmanager
def _watching(results: list[Result]) -> Iterator[None]:
    """Show on a terminal how far it is."""
    if not err.is_terminal:
        yield
        return

    spinner = Spinner("dots")

    def frame() -> Spinner:
        done = ", ".join(dict.fromkeys(result.promise for result in sorted(results, key=lambda each: each.promise)))
        spinner.update(text=f"Proving the promises on a throw-away server (about 20 s) {done}")
        return spinner

    with Live(get_renderable=frame, console=err, transient=True, refresh_per_second=10):
        yield
