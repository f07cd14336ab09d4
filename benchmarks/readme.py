"""What the READMEs show of the results, in English and in French."""

from collections.abc import Callable, Sequence

from benchmarks.results import Results
from benchmarks.servers import FLOOR, NODE, PRESENCE, PYTHON

ROWS = (
    (FLOOR, "a bare `socket.send` loop: the floor", "une boucle `socket.send` nue : le plancher"),
    ("herenow_fast", "herenow, fast WebSocket", "herenow, WebSocket rapide"),
    ("herenow_asgi", "herenow, plain ASGI on uvicorn", "herenow, ASGI simple sur uvicorn"),
    ("websockets_broadcast", "`websockets`, its `broadcast`", "`websockets`, son `broadcast`"),
    ("raw_asgi", "a bare loop of ASGI's `send` on uvicorn", "une boucle nue du `send` d'ASGI sur uvicorn"),
    (NODE, "Socket.IO {socketio} on Node {node}", "Socket.IO {socketio} sur Node {node}"),
    ("node_socketio_tuned", "the same, frames in native code", "le même, trames en code natif"),
    (PYTHON, "python-socketio {python} on uvicorn", "python-socketio {python} sur uvicorn"),
)
"""The servers of the README's table, in English and in French."""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left."""
    lines = ["| " + " | ".join(headings) + " |", "|---" + "|--:" * (len(headings) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def servers(results: Results) -> str | None:
    """The README's table of servers."""
    return _servers(
        results,
        1,
        str,
        ["server", "CPU a delivery", "× the floor", "× Node", "CPU a connect", "memory an idle connection"],
    )


def servers_fr(results: Results) -> str | None:
    """The same in French."""
    headings = [
        "serveur",
        "CPU par envoi",
        "× le plancher",
        "× Node",
        "CPU par connexion",
        "mémoire par connexion au repos",
    ]
    return _servers(results, 2, _in_french, headings)


def _in_french(text: str) -> str:
    return text.replace(",", "\u202f").replace(".", ",").replace("KB", "Ko")


def _servers(results: Results, language: int, write: Callable[[str], str], headings: list[str]) -> str | None:
    rows = []
    facts = results.pages.get("fanout", {}).get("machine", {})
    versions = {
        "socketio": facts.get("socket.io", ""),
        "node": facts.get("Node", "").removeprefix("v").partition(".")[0],
        "python": facts.get("python-socketio", ""),
    }
    for row in ROWS:
        server, name = row[0], row[language].format(**versions)
        cpu_us = results.figure("fanout", server, "cpu_us_per_delivery")
        if cpu_us is not None:
            figures = [
                _number(cpu_us, 1, " µs"),
                _number(results.ratio("fanout", server, FLOOR), 2),
                _number(results.ratio("fanout", server, NODE), 2),
                _number(results.figure("connect", server, "cpu_us_per_connect"), 0, " µs"),
                _number(results.figure("memory", server, "rss_kb_per_connection"), 1, " KB"),
            ]
            rows.append([name, *map(write, figures)])
    return table(headings, rows) if rows else None


def _number(value: float | None, decimals: int, unit: str = "") -> str:
    return "–" if value is None else f"{value:,.{decimals}f}{unit}"  # noqa: RUF001  a dash for nothing


SUMMARY = (
    "Medians of {rounds} rounds, of the ratios within each round; {cpu}, {date} ([all "
    "samples](benchmarks/results), [performance](docs/performance.md)). From round to round the fast WebSocket "
    "was at {floor} of the floor (the aim: 1.4) and at {node} of Node (0.6), the ASGI one at {asgi} of Node (1): "
    "it writes [past uvicorn's `send`](docs/decisions/015-a-shortcut-past-uvicorns-send.md) where that is right "
    "behind. A connect is at {connect} of Node's (0.5), and with JWT, registry and SQLite behind it at "
    "{presence} (0.6)."
)
SUMMARY_FR = (
    "Médianes de {rounds} tours, des rapports dans chaque tour ; {cpu}, {date} ([les "
    "échantillons](benchmarks/results), [les performances](docs/performance.md), en anglais). D'un tour à "
    "l'autre le WebSocket rapide était entre {floor} fois le plancher (le but : 1,4) et entre {node} fois Node "
    "(0,6), celui d'ASGI entre {asgi} fois Node (1) : il écrit [sans passer par le `send` "
    "d'uvicorn](docs/decisions/015-a-shortcut-past-uvicorns-send.md) là où celui-ci est juste derrière. Une "
    "connexion coûte entre {connect} fois celle de Node (0,5), et avec JWT, registre et SQLite derrière entre "
    "{presence} fois (0,6)."
)


def summary(results: Results) -> str | None:
    """What the README says below its table."""
    return _summary(results, SUMMARY, "{:.2f} to {:.2f}", str)


def summary_fr(results: Results) -> str | None:
    """The same in French."""
    return _summary(results, SUMMARY_FR, "{:.2f} et {:.2f}", lambda text: text.replace(".", ","))


def _summary(results: Results, sentence: str, span: str, write: Callable[[str], str]) -> str | None:
    spreads = {
        "floor": results.ratios("fanout", "herenow_fast", FLOOR),
        "node": results.ratios("fanout", "herenow_fast", NODE),
        "asgi": results.ratios("fanout", "herenow_asgi", NODE),
        "connect": results.ratios("connect", "herenow_fast", NODE),
        "presence": results.ratios("connect", PRESENCE, NODE),
    }
    spans = {
        name: write(span.format(spread["least"], spread["greatest"])) for name, spread in spreads.items() if spread
    }
    if len(spans) < len(spreads):
        return None
    page = results.pages["fanout"]
    rounds = len(page["servers"]["herenow_fast"]["samples"])
    return sentence.format(rounds=rounds, cpu=page["machine"]["CPU"], date=page["machine"]["measured"], **spans)
