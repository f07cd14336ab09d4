"""A MongoDB server that asks for TLS and for a password, as every one on a network does."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from certificates import make_certificate
from cli_support import answer, herenow, serving_process
from mongod import Mongod
from support import http_get

PASSWORD = "geheim/@:%"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mongod, Path]]:
    """The server, and the certificate that it shows; `keeper` may read and write the database `app`, and no more."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(directory, address="127.0.0.1")
    both = directory / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    tls = {"tls": True, "tlsCAFile": str(certificate)}
    options = ("--auth", "--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(both))
    with closing(Mongod(options=options, client_options=tls)) as mongod:
        mongod.start()
        with mongod.client() as client:  # from this machine, the first user may be created without one
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        with mongod.client(username="root", password=PASSWORD) as root:
            root.admin.command("createUser", "keeper", pwd=PASSWORD, roles=[{"role": "readWrite", "db": "app"}])
            root.app.users.insert_many([{"_id": name, "isOnline": name == "ghost"} for name in ("alice", "ghost")])
        yield mongod, certificate


def url(mongod: Mongod, options: str) -> str:
    return f"mongodb://keeper:{quote(PASSWORD, safe='')}@127.0.0.1:{mongod.port}/app?authSource=admin&{options}"


def test_the_commands_and_the_server_get_in_with_tls_and_a_password(
    tmp_path: Path, secured: tuple[Mongod, Path]
) -> None:
    mongod, certificate = secured
    database = url(mongod, f"tls=true&tlsCAFile={certificate}")
    state: dict[str, Any] = {"XDG_STATE_HOME": str(tmp_path)}
    adopted = herenow("init", "--database", database, cwd=tmp_path, **state)
    assert (adopted.returncode, adopted.stderr) == (0, "")
    found = answer(herenow("status", "--json", "--database", database, cwd=tmp_path, **state))
    assert (found["stored"]["users"], found["drift"]["ghosts"]) == (2, 1)
    with serving_process(tmp_path, HERENOW_DATABASE=database, **state) as server:
        assert http_get(f"{server.address}/v1/stats").status_code in (200, 401)
        seen = herenow("status", "--database", database, cwd=tmp_path, **state)
        assert "127.0.0.1" in seen.stdout and seen.returncode in (0, 1), seen.stderr
        assert PASSWORD not in server.said() + server.logged() + seen.stdout
        assert quote(PASSWORD, safe="") not in server.said() + server.logged() + seen.stdout
    cleaned = herenow("cleanup", "--database", database, cwd=tmp_path, **state)
    assert cleaned.returncode == 0, cleaned.stderr


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("tls=true", "certificate"),  # signed by nobody whom this machine trusts
        ("tls=true&tlsCAFile=/no/such/file.pem", "/no/such/file.pem"),
        ("tls=false", "cannot be used right now"),
    ],
)
def test_a_connection_that_cannot_be_secured_is_told_in_a_sentence(
    tmp_path: Path, secured: tuple[Mongod, Path], options: str, names: str
) -> None:
    ended = herenow("status", "--database", url(secured[0], options), cwd=tmp_path)
    assert ended.returncode == 2, ended.stdout
    assert names in ended.stderr
    assert "Traceback" not in ended.stderr and PASSWORD not in ended.stderr
