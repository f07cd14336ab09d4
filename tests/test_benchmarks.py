"""The measuring side holds what its README says, as far as that needs no load: figures, ratios, verdicts, processes."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmarks import check, document, profiling, report, sizing, wire
from benchmarks.measure import gauge, kernel_tcp_bytes
from benchmarks.processes import ROOT, ServerError, ServerProcess
from benchmarks.results import Results
from benchmarks.servers import DATABASE, FLOOR, NODE, PEERS, PRESENCE, python_peer
from benchmarks.suite import Plan, Target
from benchmarks.suites import SUITES


def fanout_result(**cpu_us: Sequence[float]) -> report.Result:
    """Return a result of the fan-out in which only the CPU figure varies."""
    samples = {
        server: [{"cpu_us_per_delivery": value, "deliveries_per_s": 1.0, "load_busy_percent": 1.0} for value in values]
        for server, values in cpu_us.items()
    }
    return report.Result(SUITES["fanout"], Plan(repeats=3), samples, {"CPU": "any"})


def test_a_ratio_is_the_median_of_the_ratios_within_each_repeat() -> None:
    """The machine halves its speed in the second repeat: medians of each would say 2.5, every repeat says 2."""
    result = fanout_result(herenow_fast=[10, 20, 10], bare_send=[5, 10, 4])
    assert result.ratio("herenow_fast", FLOOR) == report.Spread(median=2.0, least=2.0, greatest=2.5)


def test_a_target_is_ok_short_or_not_measured() -> None:
    result = fanout_result(herenow_fast=[7, 7, 7], bare_send=[5, 5, 5], node_socketio=[10, 10, 10])
    verdicts = {(verdict.target.server, verdict.target.base): verdict.word for verdict in result.verdicts()}
    assert verdicts["herenow_fast", FLOOR] == "ok"  # 1.4 of at most 1.4
    assert verdicts["herenow_fast", NODE] == "short"  # 0.7 of at most 0.6
    assert verdicts["herenow_asgi", NODE] == "not measured"


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (Target("any", 5.0), "ok"),
        (Target("any", 5.0, worst=True), "short"),
        (Target("any", 4.0, at_least=True), "ok"),
        (Target("any", 4.0, at_least=True, worst=True), "short"),
    ],
)
def test_a_limit_is_for_the_median_unless_it_is_for_the_worst(target: Target, word: str) -> None:
    assert report.Verdict(target, report.Spread.of([3.0, 5.0, 6.0])).word == word


def test_no_ratio_is_taken_to_a_base_that_is_not_above_zero() -> None:
    assert fanout_result(herenow_fast=[1.0], bare_send=[0.0]).ratio("herenow_fast", FLOOR) is None


def test_the_pages_carry_every_server_target_and_sample() -> None:
    result = fanout_result(herenow_fast=[7.5, 8, 7], bare_send=[5, 5, 5])
    page = json.loads(report.as_json(result))
    assert [sample["cpu_us_per_delivery"] for sample in page["servers"]["herenow_fast"]["samples"]] == [7.5, 8, 7]
    assert [target["verdict"] for target in page["targets"]][:3] == ["short", "not measured", "not measured"]
    text = report.markdown(result)
    assert "| herenow_fast | 7.50 (7.00" in text
    assert "- CPU: any" in text


def test_every_target_names_servers_that_exist() -> None:
    for suite in SUITES.values():
        named = {name for target in suite.targets for name in (target.server, target.base)}
        assert named - {None} <= set(suite.subjects), suite.name
        assert set(suite.bases) <= set(suite.subjects), suite.name
        assert all(target.what for target in suite.targets), suite.name
        keys = {target.key for target in suite.targets} - {None}
        assert keys <= {figure.key for figure in suite.figures}, suite.name


def test_the_node_peer_sends_the_same_event_as_the_others() -> None:
    script = (ROOT / "benchmarks" / "peers" / "node_socketio.mjs").read_text(encoding="utf-8")
    user = wire.EVENT_DATA["changes"][0]
    for value in (wire.EVENT_NAME, user["userId"], user["lastActive"]):
        assert re.search(rf'"{re.escape(value)}"', script)


def test_the_gauge_reads_the_cpu_time_that_the_process_itself_sees() -> None:
    before_s = time.process_time()
    measured_s = gauge(os.getpid()).cpu_s()
    # psutil, where the kernel is not Linux, counts in steps of 10 ms
    assert before_s - 0.01 <= measured_s <= time.process_time() + 0.01


def test_the_gauge_reads_memory_of_a_plausible_size() -> None:
    memory = gauge(os.getpid()).memory()
    assert 5e6 < memory.pss <= memory.rss < 5e9


def test_a_server_that_fails_to_start_is_named_with_its_last_words() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such luck')"]
    with pytest.raises(ServerError, match=r"unlucky ended with exit code 1 before it was ready\n    no such luck"):
        ServerProcess("unlucky", command, None).__enter__()


def test_a_program_that_does_not_exist_is_an_error_that_names_the_server() -> None:
    with pytest.raises(ServerError, match="ghost does not start"):
        ServerProcess("ghost", ["/nonexistent/program"], None).__enter__()


def test_leaving_a_server_kills_it() -> None:
    command = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
    with ServerProcess("sleeper", command, None) as server:
        process = server.process
        assert process.poll() is None
    assert process.returncode == -9


def test_every_subject_that_is_a_server_has_a_command() -> None:
    servers = {subject for suite in SUITES.values() for subject in suite.subjects} - {"mongodb", "sqlite"}
    assert servers <= set(PEERS)


def test_the_presence_server_of_the_benchmarks_starts(tmp_path: Path) -> None:
    """It is the product's own, reached into where nothing else promises that it stays so."""
    environment = {DATABASE: f"sqlite:///{tmp_path / 'bench.db'}"}
    with ServerProcess("gateway", python_peer("herenow_gateway"), None, environment) as server:
        assert server.gauge.cpu_s() > 0


def test_the_kernels_memory_is_a_number_of_pages_or_unknown() -> None:
    found = kernel_tcp_bytes()
    assert found is None or found % os.sysconf("SC_PAGE_SIZE") == 0


# -- bench-check -----------------------------------------------------------------------------------------------------


def test_what_is_a_tenth_dearer_fails_and_what_is_cheaper_does_not() -> None:
    record = {"instructions per delivery": 100.0, "blocks kept per connect": 50.0}
    assert check.compare({"instructions per delivery": 109.0, "blocks kept per connect": 20.0}, record)[1]
    assert not check.compare({"instructions per delivery": 111.0, "blocks kept per connect": 50.0}, record)[1]


def test_one_call_more_of_a_few_is_no_tenth_more() -> None:
    assert check.compare({"calls into C per delivery": 4.9}, {"calls into C per delivery": 4.0})[1]


def test_what_was_never_recorded_does_not_fail() -> None:
    assert check.compare({"something new": 9.0}, {})[1]


def test_the_steps_are_counted_and_close_to_the_record() -> None:
    """The whole check, as `make bench-check` runs it: it needs no network, no database and no time."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.check"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    known = json.loads(check.RECORD.read_bytes())
    assert done.returncode == (0 if check.version() in known else 2), done.stdout + done.stderr


# -- the pages -------------------------------------------------------------------------------------------------------

MODEL = sizing.Model(
    connect_us=500, change_us=200, window_us=1000, delivery_us=10, idle_us_per_s=2, empty_mb=80, connection_kb=10
)


def test_the_sizing_model_adds_what_each_part_costs() -> None:
    percent = MODEL.cpu_percent(connects_per_s=100, changes_per_s=200, watchers=50, connections=5000)
    # of each second, 50 ms for connects, 200 × (0.2 + 0.5) ms for changes, 20 windows of 1 ms, 10 ms for heartbeats
    assert percent == pytest.approx(5 + 14 + 2 + 1)
    assert MODEL.memory_mb(5000) == pytest.approx(130)


def test_the_constants_of_the_model_are_read_off_the_curves() -> None:
    def spread(value: float) -> dict[str, float]:
        return {"median": value, "least": value, "greatest": value}

    def page(**figures: float) -> dict[str, Any]:
        return {"servers": {PRESENCE: {"figures": {key: spread(value) for key, value in figures.items()}}}}

    curves = {
        "watchers": {
            "herenow_gateway": [
                {"x": 10, "cpu_us_per_change": 300},
                {"x": 1000, "cpu_us_per_change": 10_200},
                {"x": 10_000, "cpu_us_per_change": 200_000},  # not what the model is made from
            ]
        },
        "changes": {
            PRESENCE: [
                {"x": rate, "watchers": 20, "connections": 5000, "cpu_percent": 2 + 1 + rate * 0.04}
                for rate in (50, 100, 1000)
            ]
        },
        "idle": {PRESENCE: [{"x": 5000, "cpu_percent": 1.0}]},
    }
    results = Results(
        {
            "connect": page(cpu_us_per_connect=500),
            "memory": page(rss_mb_empty=80, rss_kb_per_connection=10),
            "curves": {"curves": curves},
        }
    )
    found = sizing.Model.of(results)
    assert found is not None
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(MODEL))
    assert [check.predicted for check in sizing.checks(results, found)] == pytest.approx([2 + 1 + 100 * 0.04])
    assert sizing.Model.of(Results({})) is None


def test_a_marked_block_is_replaced_and_one_without_figures_stays() -> None:
    text = "a\n<!-- measured: machine -->\nold\n<!-- /measured -->\nb"
    assert document.fill(text, Results({})) == text
    facts = dict.fromkeys(("measured", "CPU", "kernel", "pinning", "Python", "Node", "socket.io", "uvicorn"), "it")
    page = {"suite": "fanout", "machine": {**facts, "websockets": "17"}}
    filled = document.fill(text, Results({"fanout": page}))
    assert filled.startswith("a\n<!-- measured: machine -->\nMeasured on it")
    assert filled.endswith("\n<!-- /measured -->\nb")
    assert document.fill(filled, Results({"fanout": page})) == filled


def test_every_block_that_a_page_marks_can_be_written() -> None:
    for name in document.PAGES:
        marked = re.findall(r"<!-- measured: (.*?) -->", (ROOT / name).read_text(encoding="utf-8"))
        assert marked, name
        assert set(marked) <= set(document.BLOCKS), name


def test_a_profile_names_functions_without_their_place_on_this_machine() -> None:
    raw = "main (/x/lib/python3.11/site-packages/a/b.py:1);send (/y/src/herenow/c.py:7) 3\nmain (/x/src/d.py:2) 1"
    total, own, whole = profiling.functions(raw)
    assert (total, own["`send` herenow/c.py"], whole["`main` a/b.py"]) == (4, 3, 3)
    assert "| 75% | 75% | `send` herenow/c.py |" in profiling.table(raw)
