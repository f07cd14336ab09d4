"""Imports run one way: cli → presence → http, gateway → service → keeper → registry, store → model; none leads back."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import herenow

PACKAGE = Path(herenow.__file__).parent
PLAIN = {
    "model", "errors", "times", "version", "metering", "tenancy", "steady", "progress", "logs", "sparing",
    "supervision", "urls", "digests",
}  # fmt: skip

MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "errors": {"times"},
    "times": set(),
    "steady": set(),
    "progress": set(),
    "version": set(),
    "metering": {"model"},
    "tenancy": {"model"},
    "settings": {"digests", "errors", "tenancy", "urls", "wrong_settings"},
    "urls": set(),
    "digests": set(),
    "wrong_settings": set(),
    "wire": PLAIN,
    "promises": {"settings"},
    "registry": PLAIN,
    "store": PLAIN,
    "socketio_server": {"steady", "progress", "logs", "sparing", "supervision"},
    "logs": set(),
    "sparing": set(),
    "lines": {"sparing", "tenancy"},
    "clashes": {"errors"},
    "supervision": {"logs", "sparing"},
    "hooks": {"logs", "model", "sparing"},
    "keeper": PLAIN | {"settings", "registry", "store"},
    "cluster": PLAIN | {"settings", "registry", "store", "keeper"},
    "service": PLAIN | {"settings", "registry", "store", "keeper", "cluster", "hooks", "lines"},
    "gateway": PLAIN | {"settings", "promises", "registry", "service", "socketio_server", "wire"},
    "http": PLAIN | {"settings", "promises", "registry", "store", "keeper", "service", "wire"},
    "listening": set(),
    "mounting": PLAIN | {"settings", "service", "gateway", "http", "socketio_server", "listening", "clashes"},
    "presence": {"service"},
    "cli": PLAIN
    | {"settings", "registry", "store", "presence", "gateway", "http", "mounting", "socketio_server", "wire"},
    "__init__": PLAIN | {"settings", "presence", "gateway", "registry"},
    "__main__": {"cli"},
}
"""What each part may import of the others, when it is loaded."""

PURE = {
    "registry/rules.py",
    "registry/commands.py",
    "registry/deadlines.py",
    "registry/changelog.py",
    "registry/state.py",
    "registry/recency.py",
    "registry/wall.py",
    "registry/dues.py",
    "registry/redis/blob.py",
    "registry/redis/news.py",
    "registry/redis/proposal.py",
    "registry/redis/keys.py",
    "registry/ledger.py",
    "socketio_server/packets.py",
    "socketio_server/engineio/session.py",
    "socketio_server/message.py",
    "socketio_server/engineio/addresses.py",
    "socketio_server/queries.py",
    "gateway/watches.py",
    "gateway/auth/expiry.py",
    "gateway/access/limits.py",
    "gateway/metering/punctuality.py",
    "store/numbers.py",
    "registry/redis/watch.py",
    "registry/redis/serving.py",
    "urls.py",
    "digests.py",
    "model.py",
    "tenancy.py",
}
"""Files that touch nothing: no event loop, no clock, no network, no files."""

IMPURE = {"asyncio", "time", "socket", "os", "threading", "subprocess", "uvicorn", "structlog", "logging"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path, *, whenever: bool = False) -> set[str]:
    """The dotted names that a module imports when it is loaded; with ``whenever``, also what its functions import."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    package = ("herenow", *path.relative_to(PACKAGE).parent.parts)
    for node in _running(tree) if whenever else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that are only for who checks types."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        return
    yield tree
    for node in ast.iter_child_nodes(tree):
        yield from _running(node)


def name_of(path: Path) -> str:
    """A module's dotted name."""
    return ".".join(("herenow", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imported(path) if name.startswith("herenow.")}
    assert used - {part} <= MAY_IMPORT[part], f"{part} may not import {used - {part} - MAY_IMPORT[part]}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_module_touches_nothing(name: str) -> None:
    assert {module.split(".")[0] for module in imported(PACKAGE / name)} & IMPURE == set()


def test_no_module_needs_itself() -> None:
    """Not even where a function imports what is above it: whoever reads one of a circle must read them all."""
    paths = {name_of(path): path for path in modules()}
    needs: dict[str, set[str]] = {}
    for name, path in paths.items():
        found = imported(path, whenever=True) & paths.keys()
        # "from herenow.a import b" is of the module b, where there is one, and not of the package a
        packages = {each.rpartition(".")[0] for each in found}
        needs[name] = found - packages - {name}
    TopologicalSorter(needs).prepare()  # raises, and names the circle


def test_the_wall_clock_is_read_at_one_place() -> None:
    """So that a clock which is out of all reason is taken for the nearest that can be written, everywhere."""
    readers = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if (node.value.id, node.attr) in {("time", "time"), ("time", "time_ns"), ("datetime", "now")}:
                    readers.add(str(path.relative_to(PACKAGE)))
    assert readers == {"times.py"}
