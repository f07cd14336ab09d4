"""The program as it is really started, from nothing: the other tests of the commands fork one that is loaded."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_support import ENVIRONMENT
from herenow.cli.limits import SPARE_FILES
from herenow.version import VERSION
from support import http_get


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "herenow.cli", *arguments]


@contextmanager
def serving(directory: Path, **environment: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    said = directory / "said"
    with said.open("w") as out:
        server = subprocess.Popen(
            command("serve", "--dev", "--port", "0"),
            cwd=directory,
            env={**ENVIRONMENT, **environment},
            stdout=out,
            stderr=out,
        )
    try:
        ends_s = time.monotonic() + 30
        while "http://" not in said.read_text():
            assert server.poll() is None and time.monotonic() < ends_s, said.read_text()
            time.sleep(0.02)
        yield server, next(word for word in said.read_text().split() if word.startswith("http://"))
    finally:
        server.kill()
        server.wait()


def test_a_server_and_a_command_start_from_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, address):
        status = subprocess.run(
            command("status"), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=30
        )
        assert (status.returncode, status.stderr) == (0, "")
        assert http_get(f"{address}/readyz").status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_it_takes_as_many_files_as_its_connections_need_and_the_system_allows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # the server inherits it
    try:
        with serving(tmp_path, HERENOW_MAX_CONNECTIONS="1000") as (server, _):
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (1000 + SPARE_FILES, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.3, 0.5])
def test_ctrl_c_is_quiet_while_the_program_is_loaded_too(tmp_path: Path, after_s: float) -> None:
    """From the moment on at which Python hands over to it."""
    loading = [sys.executable, "-X", "importtime", *command("status", "--json")[1:]]
    process = subprocess.Popen(
        loading, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "herenow.cli.entry" not in process.stderr.readline():
        assert process.poll() is None
    process.stderr.readline()  # of the next module: the first that the entry itself loads
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=20)
    # Interrupted; or done, for there is no database here; or caught by Python at its very end.
    assert process.returncode in (130, 2, -signal.SIGINT)
    assert "Traceback" not in complained


def test_both_names_of_the_program_are_installed() -> None:
    for name in ("herenow", "presence-manager"):
        ended = subprocess.run(
            [Path(sys.executable).with_name(name), "--version"], capture_output=True, text=True, check=False, timeout=30
        )
        assert ended.stdout == f"herenow {VERSION}\n"
