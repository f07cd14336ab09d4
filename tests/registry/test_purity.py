"""The rules and what they stand on are pure: they import nothing that could ask for the time, or wait."""

import ast
from pathlib import Path

import pytest

import herenow.registry

PURE = ("changelog", "commands", "deadlines", "dues", "ledger", "recency", "rules", "state", "wall")
ALLOWED = {"bisect", "collections", "heapq", "herenow", "itertools", "msgspec", "operator", "sys", "typing"}


def imports_of(module: str) -> set[str]:
    (package,) = herenow.registry.__path__
    tree = ast.parse((Path(package) / f"{module}.py").read_text("utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_no_clock_no_io_and_no_dice(module: str) -> None:
    names = imports_of(module)
    assert {name.split(".")[0] for name in names} <= ALLOWED
    ours = {name for name in names if name.startswith("herenow.")}
    assert ours <= {"herenow.model", "herenow.times"} | {f"herenow.registry.{pure}" for pure in PURE}
