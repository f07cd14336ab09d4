"""The measuring side holds what its README says, as far as that needs no load: figures, ratios, verdicts, processes."""

import json
import os
import re
import sys
import time
from collections.abc import Sequence

import pytest
from benchmarks import report, wire
from benchmarks.measure import gauge
from benchmarks.processes import ROOT, ServerError, ServerProcess
from benchmarks.suites import FLOOR, NODE, SUITES, Plan


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
    assert verdicts == {
        ("herenow_fast", FLOOR): "ok",  # 1.4 of at most 1.4
        ("herenow_fast", NODE): "short",  # 0.7 of at most 0.6
        ("herenow_asgi", NODE): "not measured",
    }


def test_no_ratio_is_taken_to_a_base_that_is_not_above_zero() -> None:
    assert fanout_result(herenow_fast=[1.0], bare_send=[0.0]).ratio("herenow_fast", FLOOR) is None


def test_the_pages_carry_every_server_target_and_sample() -> None:
    result = fanout_result(herenow_fast=[7.5, 8, 7], bare_send=[5, 5, 5])
    page = json.loads(report.as_json(result))
    assert [sample["cpu_us_per_delivery"] for sample in page["servers"]["herenow_fast"]["samples"]] == [7.5, 8, 7]
    assert [target["verdict"] for target in page["targets"]] == ["short", "not measured", "not measured"]
    text = report.markdown(result)
    assert "| herenow_fast | 7.50 (7.00" in text
    assert "- CPU: any" in text


def test_every_target_names_servers_that_exist() -> None:
    for suite in SUITES.values():
        named = {name for target in suite.targets for name in (target.server, target.base)}
        assert named - {None} <= set(suite.servers), suite.name
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
