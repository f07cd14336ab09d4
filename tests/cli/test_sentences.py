"""What a command says when it cannot: what to write instead; never a password."""

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli_support import herenow
from herenow import Presence
from herenow.cli.app import app
from herenow.errors import SettingsInvalid
from herenow.mounting import Mounted
from herenow.settings import Settings

SECRET = {"HERENOW_JWT_SECRET": "a secret of at least thirty-two bytes"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "400")


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (("status",), {"HERENOW_ORIGINS": "https://app.example"}, """HERENOW_ORIGINS='["https://app.example"]'"""),
        (("status",), {"HERENOW_ORIGINS": '["https://App.example/"]'}, "write 'https://app.example' instead of"),
        (("status",), {"HERENOW_ORIGINS": '["app.example:8080"]'}, "write 'https://app.example:8080' instead of"),
        (("status",), {"HERENOW_ORIGINS": '["https://*.example"]'}, "write each origin out"),
        (("status",), {"HERENOW_ORIGINS": '["://"]'}, "such as https://app.example"),
        (("status",), {"HERENOW_TRUSTED_PROXIES": '["nginx"]'}, "'nginx': each must be an address or a network"),
        (("serve", "--dev", "--port", "99999"), {}, "port must be at most 65535, not 99999"),
        (("status",), {"HERENOW_PORT": "http"}, "port must be a whole number, not 'http'"),
        (("status",), {"HERENOW_DEV": "maybe"}, "dev must be true or false, not 'maybe'"),
        (("status",), {"HERENOW_PING_INTERVAL_S": "0"}, "ping_interval_s must be above 0, not 0"),
        (("status",), {"HERENOW_NODE_NAME": ""}, "node_name must have at least 1 characters"),
        (("status",), {"HERENOW_TENANT_FIELD": "a.b"}, "tenant_field must be the name of one field"),
        (("status",), {"HERENOW_JWT_SECRET": "short"}, "openssl rand -hex 32"),
        (("serve",), {}, "set HERENOW_JWT_SECRET to the secret that signs your users' tokens"),
        (("serve",), {}, "herenow serve --dev"),
        (("serve", "--dev", "--log-level", "loud"), {}, "'warning'"),
        (("serve", "--dev", "--host", "192.0.2.1"), SECRET, "leave out --host"),
        (("token",), {}, "--user ID, --api-key or --admin-token"),
        (("token", "--user", "--api-key"), SECRET, "--user needs a value, as in --user ID; --api-key is an option"),
        (("token", "--user", "alice", "--api-key"), SECRET, "--user and --api-key make different things"),
        (("token", "--api-key", "--for", "1h"), {}, "go with --user"),
        (("token", "--user", "alice"), {}, "HERENOW_JWT_SECRET"),
        (("status", "--database", "--json"), {}, "--database needs a value, as in --database URL"),
        (("explain", "alice", "--tenant", "--json"), {}, "--tenant needs a value"),
        (("status", "app.db"), {}, "app.db"),
        (("status", "alice"), {}, "herenow explain USER says it of one user"),
        (("token", "alice"), SECRET, "name the user with --user"),
        (("explain", "alice", "bob"), {}, "bob is too much: herenow explain USER takes one user"),
        (("cleanup", "alice"), {}, "herenow cleanup takes options only"),
        (("stale", "--older-than"), {}, "--older-than needs a value, as in --older-than 1h"),
        (("token", "--user"), SECRET, "--user needs a value, as in --user alice"),
        (("serve", "--log-level"), {}, "as in --log-level info"),
        (("serve", "--dev", "--port", "http"), {}, "--port needs a whole number, as in --port 8080"),
        (("serve", "--dev", "--page", "/nope"), {}, "--page needs a directory with an index.html"),
        (("status",), {"HERENOW_ROOT_PATH": "presence"}, "root_path must begin with a slash and not end with one"),
        (("status",), {"HERENOW_OFFLINE_WITHIN_S": "inf"}, "offline_within_s must be a number, not"),
        (("status", "--database", "app.db"), {}, "write sqlite:///app.db for a file"),
        (("status", "--database", "sqlite:////no/such/app.db"), {}, "there is no directory /no/such: make it"),
        (("init", "--database", "sqlite:////no/such/app.db"), {}, "there is no directory /no/such: make it"),
        (("status", "--database", "sqlite:////tmp"), {}, "it is a directory: name a file in it"),
        (("status",), {}, "start the server or the application, or name its database with --database"),
        (("watch", "--tenant", "a/b"), {}, "a tenant has 1 to 64"),
        (("explain", "a\nb"), {}, "'a\\nb' is no user id"),
        (("stale", "--older-than", "soon"), {}, "write 300, 300s, 5m or 1h"),
        (("stale", "--older-than", "0"), {}, "write 300, 300s, 5m or 1h"),
    ],
)
def test_each_error_says_what_to_write_instead(
    arguments: tuple[str, ...], environment: dict[str, str], says: str
) -> None:
    ended = run(*arguments, **environment)
    assert ended.exit_code == 2
    assert says in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("prot = 1", "is 'port' meant?"),
        ("colour = 'red'", "'colour'"),
        ("origins = 'https://app.example'", 'write origins = ["https://app.example"] in herenow.toml'),
        ("tenant_api_keys = []", 'write tenant_api_keys = {"acme" = ["sha256:…"]} in herenow.toml'),
        ("port = = 1", "write lines such as port = 8080"),
    ],
)
def test_a_wrong_line_of_the_file_is_told_with_its_file(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "herenow.toml").write_text(line)
    ended = run("status")
    assert (ended.exit_code, says in ended.stderr) == (2, True), ended.stderr
    assert "herenow.toml" in ended.stderr


@pytest.mark.parametrize("level", ["INFO", "Warning", "debug"])
def test_the_level_of_the_log_is_read_in_any_case(level: str) -> None:
    ended = run("serve", HERENOW_LOG_LEVEL=level)
    assert "nothing says who a client is" in ended.stderr, "it was read, and what came next refused"


def test_an_address_of_another_machine_is_told_from_one_that_is_none(tmp_path: Path) -> None:
    """In a process of its own, for it sets up its log first."""
    for host, says in (("192.0.2.1", "give --host 127.0.0.1"), ("no.such.host.invalid", "is no address")):
        ended = herenow("serve", "--host", host, cwd=tmp_path, HERENOW_JWT_SECRET="x" * 32)
        assert (ended.returncode, says in ended.stderr) == (2, True), ended.stderr


def test_mount_without_a_secret_says_what_a_program_writes() -> None:
    from fastapi import FastAPI

    with pytest.raises(SettingsInvalid, match=r'Presence\(jwt_secret="…"\).*authenticate=….*dev=True'):
        Mounted(Presence("sqlite:///app.db"), FastAPI(), path="/socket.io/")


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://anna:geheim@localhost",
        "mongodb://anna:ge@heim@localhost/shop",
        "mongodb://anna:geheim/@localhost/shop",
        "mongodb://anna:12?geheim@localhost/shop",
        "mongodb:/anna:geheim@localhost/shop",
        "mongodb:anna:geheim@localhost/shop",
        "mongo://anna:geheim@localhost/shop",
        "postgresql://anna:geheim@localhost/shop",
        "postgresql://localhost/shop?user=anna&password=geheim",
        "sqlite://anna:geheim@localhost/shop.db",
        "anna:geheim@localhost/shop",
    ],
)
def test_no_error_about_an_address_shows_its_password(url: str) -> None:
    """Nor does any command take another database for it."""
    for command in ("status", "init", "test", "watch"):
        ended = run(command, "--database", url)
        assert ended.exit_code == 2
        assert "geheim" not in ended.output
    assert "geheim" not in run("status", HERENOW_DATABASE=url).output


def test_an_address_without_its_option_is_told_without_its_password() -> None:
    ended = run("status", "mongodb://anna:geheim@localhost/shop")
    assert (ended.exit_code, "write --database before mongodb://localhost/shop" in ended.stderr) == (2, True)
    assert "geheim" not in ended.output


def test_a_password_is_escaped_as_the_error_says() -> None:
    ended = run("status", "--database", "mongodb://anna:ge@heim@localhost/shop")
    assert "write %40 for @" in ended.stderr


def test_the_home_stands_in_the_place_of_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert run("init", "--database", "sqlite:///~/app.db").exit_code == 0
    assert (home / "app.db").exists()
    assert not (tmp_path / "~").exists()
    settings = Settings.load(tls_certfile="~/cert.pem", jwt_public_keys=["~/key.pem", "-----BEGIN PUBLIC KEY-----~"])
    assert (settings.tls_certfile, settings.jwt_public_keys[0]) == (home / "cert.pem", f"{home}/key.pem")
    assert settings.jwt_public_keys[1].endswith("~")


def test_stale_ends_with_1_where_it_found_somebody_and_with_0_where_not() -> None:
    assert run("init").exit_code == 0
    assert run("stale").exit_code == 0
    with sqlite3.connect("herenow.db") as database:
        database.execute(
            "INSERT INTO users (id, isOnline, lastActive, presenceAvailability, presenceVersion) "
            "VALUES ('casper', 1, '2020-01-01T00:00:00.000Z', 'online', 1)"
        )
    assert run("stale", "--dry-run").exit_code == 1
    assert run("stale").exit_code == 1
    assert run("stale").exit_code == 0


def test_an_address_of_another_machine_is_named_with_what_to_give_instead(tmp_path: Path) -> None:
    """In a process of its own: by then the server's words go by a thread of its own."""
    ended = herenow("serve", "--host", "192.0.2.1", cwd=tmp_path, HERENOW_JWT_SECRET=SECRET["HERENOW_JWT_SECRET"])
    assert ended.returncode == 2
    assert "give --host 127.0.0.1" in ended.stderr
