"""``herenow test``: proves the system on this machine, before a deployment."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from herenow.cli.interrupt import undisturbed
from herenow.cli.options import CouldNotLook, Database, Json, run_quietly
from herenow.cli.output import FOUND, GOOD, Rows, escape, print_json, say
from herenow.settings import Settings

if TYPE_CHECKING:
    from herenow.cli.scratch import Scratch
    from herenow.cli.verdicts import Result


@run_quietly
def test(
    database: Database = None,
    json: Json = False,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Prove what several nodes promise."),
    ] = False,
) -> int:
    """Prove the promises on this machine: a throw-away server, scratch data, real clients.

    The application's own data is not touched. Takes about 20 s.

    With --cluster: two throw-away nodes. One is killed, paused and stopped,
    and Redis (HERENOW_CLUSTER) loses all it has of them, and nothing else.
    Takes about 40 s, or longer where restart_grace_s is.

    Exit code 1: a promise was not kept.
    """
    settings = Settings.load(database=database)
    began_s = time.monotonic()
    scratch, results = _prove_cluster(settings) if cluster else _prove(settings)
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


def _prove(settings: Settings) -> "tuple[Scratch, list[Result]]":
    from herenow.cli.proving import prove  # here: it brings the whole of herenow, which --help does not need
    from herenow.cli.scratch import Scratch

    scratch = Scratch(settings)
    try:
        return scratch, asyncio.run(prove(scratch))
    finally:
        with undisturbed():
            scratch.remove()


def _prove_cluster(settings: Settings) -> "tuple[Scratch, list[Result]]":
    if settings.cluster is None:
        raise CouldNotLook(
            "--cluster needs the Redis of the cluster: set HERENOW_CLUSTER to its address, as in redis://localhost:6379"
        )
    try:
        from herenow.cli.proving_cluster import prove_cluster
        from herenow.cli.scratch_cluster import ScratchCluster
    except ModuleNotFoundError as error:
        raise CouldNotLook("--cluster needs a client of Redis: pip install 'herenow[redis]'") from error

    scratch = ScratchCluster(settings)
    try:
        return scratch, asyncio.run(prove_cluster(scratch))
    finally:
        with undisturbed():
            scratch.remove()


def show(results: "list[Result]", shortened: list[str], seconds: float) -> None:
    proof = Rows("", "promise", "bound", "measured", " ", right=("bound", "measured"), spare=("bound",))
    reasons: list[str] = []
    for each in results:
        verdict = "[green]ok[/]" if each.ok else "[bold red]broken[/]"
        measured, _, why = each.measured.partition(": ")
        proof.add(each.promise, each.what, each.bound, escape(measured), verdict)
        reasons += [f"[red]{each.promise} {measured}:[/] {escape(why)}"] if why else []
    proof.say()
    for reason in reasons:
        say(f"\n{reason}")
    say("")
    broken = sum(not result.ok for result in results)
    say(
        f"[green]all promises kept[/], {seconds:.0f} s"
        if not broken
        else f"[bold red]{broken} broken[/], {seconds:.0f} s"
    )
    if shortened:
        say(f"[dim]waits made short for the test: {', '.join(shortened)}[/]")
