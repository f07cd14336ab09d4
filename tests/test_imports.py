"""Imports run one way: cli, http, gateway → presence → registry, store → model, errors; gateway → socketio_server."""

import ast
from pathlib import Path

import pytest

import herenow

PACKAGE = Path(herenow.__file__).parent
PLAIN = {
    "model", "errors", "times", "version", "metering", "tenancy", "steady", "progress", "logs", "sparing",
    "supervision",
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
    "settings": {"errors", "tenancy", "wrong_settings"},
    "wrong_settings": set(),
    "wire": PLAIN,
    "registry": PLAIN,
    "store": PLAIN,
    "socketio_server": {"steady", "progress", "logs", "sparing", "supervision"},
    "logs": set(),
    "sparing": set(),
    "supervision": {"logs", "sparing"},
    "hooks": {"logs", "model", "sparing"},
    "truth": PLAIN | {"registry", "store"},
    "presence": PLAIN | {"settings", "registry", "store", "truth", "hooks"},
    "gateway": PLAIN | {"settings", "registry", "presence", "socketio_server", "wire"},
    "http": PLAIN | {"settings", "registry", "store", "presence", "wire"},
    "listening": set(),
    "mounting": PLAIN | {"settings", "presence", "gateway", "http", "socketio_server", "listening"},
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
    "socketio_server/packets.py",
    "socketio_server/session.py",
    "socketio_server/message.py",
    "socketio_server/addresses.py",
    "socketio_server/queries.py",
    "gateway/watches.py",
    "gateway/expiry.py",
    "gateway/limits.py",
    "gateway/punctuality.py",
    "store/numbers.py",
    "model.py",
    "tenancy.py",
}
"""Files that touch nothing: no event loop, no clock, no network, no files."""

IMPURE = {"asyncio", "time", "socket", "os", "threading", "subprocess", "uvicorn", "structlog", "logging"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The dotted names that a module imports when it is loaded; what a function imports when it runs is its own."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    package = ("herenow", *path.relative_to(PACKAGE).parent.parts)
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)} if module == "herenow" else {module}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imported(path) if name.startswith("herenow.")}
    assert used - {part} <= MAY_IMPORT[part], f"{part} may not import {used - {part} - MAY_IMPORT[part]}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_module_touches_nothing(name: str) -> None:
    assert {module.split(".")[0] for module in imported(PACKAGE / name)} & IMPURE == set()
