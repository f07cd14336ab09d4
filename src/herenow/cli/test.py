"""``herenow test``: proves the system on this machine, before a deployment."""

import asyncio
import time
from typing import TYPE_CHECKING

from herenow.cli.options import Database, Json, run_quietly
from herenow.cli.output import FOUND, GOOD, Rows, escape, print_json, say
from herenow.settings import Settings

if TYPE_CHECKING:
    from herenow.cli.verdicts import Result


@run_quietly
def test(database: Database = None, json: Json = False) -> int:
    """Prove the promises on this machine: a throw-away server, scratch data, real clients.

    The application's own data is not touched. Takes about 20 s.

    Exit code 1: a promise was not kept.
    """
    from herenow.cli.proving import prove  # here: it brings the whole of herenow, which --help does not need
    from herenow.cli.scratch import Scratch

    settings = Settings.load(database=database)
    began_s = time.monotonic()
    scratch = Scratch(settings)
    try:
        results = asyncio.run(prove(scratch))
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
        show(results, scratch.shortened, seconds)
    return GOOD if kept else FOUND


def show(results: "list[Result]", shortened: list[str], seconds: float) -> None:
    proof = Rows("", "promise", "bound", "measured", " ", right=("bound", "measured"), spare=("bound",))
    for each in results:
        verdict = "[green]ok[/]" if each.ok else "[bold red]broken[/]"
        proof.add(each.promise, each.what, each.bound, escape(each.measured), verdict)
    proof.say()
    say("")
    broken = sum(not result.ok for result in results)
    say(
        f"[green]all promises kept[/], {seconds:.0f} s"
        if not broken
        else f"[bold red]{broken} broken[/], {seconds:.0f} s"
    )
    if shortened:
        say(f"[dim]waits made short for the test: {', '.join(shortened)}[/]")
