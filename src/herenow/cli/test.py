"""``herenow test``: proves the system on this machine, before a deployment."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator

from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner

from herenow.cli.options import Database, Json, run_quietly
from herenow.cli.output import FOUND, GOOD, err, out, print_json, table
from herenow.cli.probes import Probes, Result, crash, told
from herenow.cli.scratch import Scratch
from herenow.settings import Settings


@run_quietly
def test(database: Database = None, json: Json = False) -> int:
    """Prove the promises on this machine: a throw-away server, scratch data, real clients.

    The application's own data is not touched. Takes about 20 s. Exit code 1: a promise was not kept.
    """
    settings = Settings.load(database=database)
    began_s = time.monotonic()
    scratch = Scratch(settings)
    try:
        results = asyncio.run(_prove(scratch))
    finally:
        scratch.remove()
    seconds = time.monotonic() - began_s
    kept = all(result.ok for result in results)
    if json:
        rows = [
            {
                "promise": each.promise,
                "what": each.what,
                "bound": each.bound,
                "measured": each.measured,
                "measuredMs": each.measured_ms,
                "ok": each.ok,
            }
            for each in results
        ]
        print_json({"ok": kept, "seconds": round(seconds, 1), "shortened": scratch.shortened, "results": rows})
    else:
        _show(results, scratch.shortened, seconds)
    return GOOD if kept else FOUND


async def _prove(scratch: Scratch) -> list[Result]:
    """Run all probes, on two servers at the same time: one of them is killed."""
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results: list[Result] = []
    steady, crashing = scratch.server("steady"), scratch.server("crashing")
    with _watching(results):
        try:
            await asyncio.gather(steady.start(), crashing.start())
            probes = Probes(steady, scratch.settings)

            await asyncio.gather(
                probes.run(results.append), told("P5", crash(crashing, scratch.settings), results.append)
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


def _show(results: list[Result], shortened: list[str], seconds: float) -> None:
    proof = table("", "promise", "bound", "measured", "", right=("bound", "measured"))
    for each in results:
        verdict = "[green]ok[/]" if each.ok else "[bold red]broken[/]"
        proof.add_row(each.promise, each.what, each.bound, escape(each.measured), verdict)
    out.print(proof)
    out.print()
    broken = sum(not result.ok for result in results)
    out.print(
        f"[green]all promises kept[/], {seconds:.0f} s"
        if not broken
        else f"[bold red]{broken} broken[/], {seconds:.0f} s"
    )
    if shortened:
        out.print(f"[dim]waits made short for the test: {', '.join(shortened)}[/]", soft_wrap=True)
