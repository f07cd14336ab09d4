"""Settings: where they come from, and how they must fit together."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from herenow.errors import SettingsInvalid
from herenow.settings import Settings, sqlite_path
from herenow.urls import is_loopback


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_defaults_fit_together_and_are_those_of_the_design() -> None:
    settings = Settings.load()
    assert settings.database == "sqlite:///herenow.db"
    assert settings.grace_s == pytest.approx(1.85)
    assert settings.silent_loss_s == 17.0
    assert settings.restart_grace_s == 15.0


def test_an_argument_beats_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "herenow.toml").write_text('port = 1\nhost = "127.0.0.2"\nnode_name = "file"\n')
    monkeypatch.setenv("HERENOW_PORT", "2")
    monkeypatch.setenv("HERENOW_HOST", "127.0.0.3")
    settings = Settings.load(port=3, host=None)
    assert (settings.port, settings.host, settings.node_name) == (3, "127.0.0.3", "file")


@pytest.mark.parametrize("name", ["api_keys", "jwt_public_keys", "tenant_api_keys"])
def test_a_variable_that_is_not_json_is_named_and_not_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"HERENOW_{name.upper()}", "a-secret")
    with pytest.raises(SettingsInvalid, match=f"HERENOW_{name.upper()} is not JSON") as error:
        Settings.load()
    assert "a-secret" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"offline_within_s": 0.3}, ["offline_within_s"]),
        ({"ping_timeout_s": 20.0}, ["ping_timeout_s", "ping_interval_s"]),
        ({"restart_grace_s": 9.4}, ["restart_grace_s", "offline_within_s"]),
        ({"node_lease_s": 2.0}, ["node_beat_s", "node_lease_s"]),
        ({"last_active_granularity_s": 300.0}, ["last_active_granularity_s", "stale_after_s"]),
        (
            {"stale_after_s": 15.0, "last_active_granularity_s": 1.0},
            ["ping_interval_s", "ping_timeout_s", "stale_after_s"],
        ),
        ({"flush_interval_s": 0.7}, ["flush_interval_s", "offline_within_s"]),
        ({"jwt_secret": "short"}, ["jwt_secret"]),
        ({"jwt_previous_secrets": ["short"]}, ["jwt_previous_secrets"]),
        ({"api_keys": ["short"]}, ["api_keys"]),
        ({"api_keys": [""]}, ["api_keys"]),
        ({"admin_tokens": ["sha256:not a digest at all"]}, ["admin_tokens"]),
        ({"trusted_proxies": ["my proxy"]}, ["trusted_proxies"]),
        ({"jwt_leeway_s": -1}, ["jwt_leeway_s"]),
        ({"port": 70_000}, ["port"]),
        ({"port": "many"}, ["port"]),
        ({"ping_interval_s": 0}, ["ping_interval_s"]),
        ({"node_name": ""}, ["node_name"]),
        ({"cluster": "http://redis"}, ["cluster", "redis+sentinel://"]),
        ({"colour": "red"}, ["colour"]),
    ],
)
def test_what_cannot_work_is_refused_by_name(given: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.load(**given)
    for name in names:
        assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "herenow.toml").write_text("port = = 1")
    with pytest.raises(SettingsInvalid, match=r"herenow\.toml"):
        Settings.load()


def test_secrets_do_not_show() -> None:
    settings = Settings.load(jwt_secret="a secret of at least thirty-two bytes", api_keys=["another secret key"])
    assert "secret of" not in repr(settings)
    assert "another" not in repr(settings)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_told_from_the_rest(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_the_file_of_a_sqlite_address() -> None:
    assert sqlite_path("sqlite:///app.db") == Path("app.db")
    assert sqlite_path("sqlite:////var/app.db") == Path("/var/app.db")
    assert sqlite_path("mongodb://localhost/app") is None


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"tenant_api_keys": {"acme": ["short"]}}, ["tenant_api_keys"]),
        ({"tenant_api_keys": {"a b": ["a key that is long enough"]}}, ["tenant_api_keys"]),
        ({"tenant_field": "presence"}, ["tenant_field", "presence_field"]),
        ({"tenant_field": "a.b"}, ["tenant_field"]),
    ],
)
def test_what_cannot_be_of_a_tenant_is_refused_by_name(given: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.load(**given)
    assert all(name in str(refused.value) for name in names)


def test_the_key_of_a_tenant_opens_nothing_else() -> None:
    key, other = "a key that is long enough", "another key that is long enough"
    digest = "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    for elsewhere in (
        {"tenant_api_keys": {"acme": [key], "globex": [digest]}},
        {"tenant_api_keys": {"acme": [key]}, "api_keys": [digest]},
        {"tenant_api_keys": {"acme": [digest]}, "admin_tokens": [key]},
    ):
        with pytest.raises(SettingsInvalid, match="each must open one thing"):
            Settings.load(**elsewhere)
    settings = Settings.load(
        tenant_api_keys={"acme": [key, digest], "globex": [other]}, api_keys=["the key of a reader"]
    )
    assert set(settings.tenant_api_keys) == {"acme", "globex"}
    assert "long enough" not in repr(settings)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("HERENOW_JWT_ISSUR", "HERENOW_JWT_ISSUER"), ("herenow_origin", "HERENOW_ORIGINS")],
)
def test_a_variable_that_is_nearly_a_setting_is_refused(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be passed over, and the server would let in whom it was to refuse."""
    monkeypatch.setenv(variable, "x")
    with pytest.raises(SettingsInvalid, match=f"{variable}: is {meant} meant"):
        Settings.load()


def test_variables_of_others_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes has some for a service of this name."""
    for name in ("HERENOW_PORT_8000_TCP_ADDR", "HERENOW_SERVICE_HOST", "HERENOW_URL"):
        monkeypatch.setenv(name, "x")
    Settings.load()


@pytest.mark.parametrize("origin", ["https://app.example/", "app.example", "https://", "https://a@b", "https://a?b"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(SettingsInvalid, match="origins"):
        Settings.load(origins=["https://app.example:8443", "null", origin])
