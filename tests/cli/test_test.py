"""``herenow test``: the proof of the promises, and how it tells a broken one."""

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cli_support import answer, broken, herenow
from herenow.cli import proving
from herenow.cli.app import app
from herenow.cli.probes import WHAT, Probes
from herenow.cli.socketio_client import NotLetIn
from herenow.cli.verdicts import Result, told, until_kept


def test_it_proves_every_promise_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "herenow.db").write_bytes(b"the application's own")
    ended = herenow("test", "--json", cwd=tmp_path)
    found = answer(ended)
    assert [each["promise"] for each in found["results"]] == ["P1", "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"]
    assert broken(found) == []
    all_kept = all(each["ok"] for each in found["results"])
    assert (ended.returncode, found["ok"], ended.stderr) == (0 if all_kept else 1, all_kept, "")
    assert found["seconds"] < 60
    assert "restart_grace_s 15 → 9.5" in found["shortened"]
    assert [path.name for path in tmp_path.iterdir()] == ["herenow.db"]
    assert (tmp_path / "herenow.db").read_bytes() == b"the application's own"


def test_a_broken_promise_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def prove(scratch: object) -> list[Result]:
        return [
            Result("P2", WHAT["P2"], "2,000 ms", "2,400 ms", 2400.0, False),
            Result("P3", WHAT["P3"], "100 ms", "9 ms", 9.0, True),
        ]

    monkeypatch.setattr(proving, "prove", prove)
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["test"])
    assert shown.exit_code == 1
    assert "broken" in shown.stdout and "1 broken" in shown.stdout
    told_to_a_script = CliRunner().invoke(app, ["test", "--json"])
    assert told_to_a_script.exit_code == 1
    assert [each["ok"] for each in json.loads(told_to_a_script.stdout)["results"]] == [False, True]
    assert list(tmp_path.iterdir()) == []


class _Late(Probes):
    """Probes whose times are too long until a certain try."""

    def __init__(self, kept_at: int) -> None:
        self.kept_at = kept_at
        self.tries: list[int] = []

    async def _leave(self, attempt: int) -> list[Result]:
        self.tries.append(attempt)
        return [Result("P3", WHAT["P3"], "100 ms", f"{attempt} ms", 0.0, attempt == self.kept_at)]


@pytest.mark.parametrize(
    ("kept_at", "tries", "measured", "ok"),
    [(1, [1], "1 ms", True), (2, [1, 2], "2 ms, try 2", True), (9, [1, 2, 3], "3 ms, try 3", False)],
)
async def test_a_time_over_its_bound_is_measured_again_and_says_so(
    kept_at: int, tries: list[int], measured: str, *, ok: bool
) -> None:
    probes = _Late(kept_at)
    results = await until_kept(probes._leave)
    assert probes.tries == tries
    assert [(each.measured, each.ok) for each in results] == [(measured, ok)]


class _Resident(Probes):
    """One who comes, and whom the store shows online 0.2 s later: within the bound of P1."""

    def __init__(self) -> None:
        self._online_at_s = time.monotonic() + 0.2
        self._server: Any = SimpleNamespace(store=self)
        self._settings: Any = SimpleNamespace(silent_loss_s=0)
        self._watcher: Any = SimpleNamespace(client=self, unwanted=lambda users: 0)

    async def _open(self, user_id: str) -> Any:
        await asyncio.sleep(0)

    async def _cut(self, client: Any) -> None:
        await asyncio.sleep(0)

    async def read(self, user_ids: list[str]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"resident": SimpleNamespace(is_online=True)} if time.monotonic() > self._online_at_s else {}

    async def emit(self, event: str, payload: object) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"users": [{"isOnline": True}]}


async def test_the_store_may_take_its_moment_before_p8_is_looked_at() -> None:
    (result,) = await _Resident()._never_offline()
    assert result.ok, result.measured


async def test_a_probe_that_cannot_be_finished_has_not_kept_its_promise() -> None:
    results: list[Result] = []

    async def probe() -> list[Result]:
        await asyncio.sleep(0)
        raise NotLetIn("the server let nobody in")

    await told("P7", WHAT["P7"], probe(), results.append)
    assert [(each.promise, each.ok, each.measured) for each in results] == [
        ("P7", False, "failed: the server let nobody in")
    ]


def test_an_unexpected_failure_reaches_the_terminal_as_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def prove(scratch: object) -> Any:
        raise ZeroDivisionError("a fault\nof two lines")

    monkeypatch.setattr(proving, "prove", prove)
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["test"])
    assert ended.exit_code == 2
    assert ended.stderr.startswith("herenow: failed unexpectedly: ZeroDivisionError: a fault (")
    assert "Traceback" not in ended.output
    assert list(tmp_path.iterdir()) == []
