"""What `herenow token` makes opens what it is for, and nothing else."""

import hashlib
import time
from pathlib import Path

import jwt
import pytest

from cli_support import answer, herenow

SECRET = "a secret of at least thirty-two bytes"


def test_a_client_token_says_what_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "herenow.toml").write_text(f"jwt_secret = {SECRET!r}\njwt_issuer = 'me'\njwt_audience = 'presence'")
    options = ("--user", "alice", "--watch", "bob", "--watch", "carol", "--for", "10m")
    ended = herenow("token", *options, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    claims = jwt.decode(ended.stdout.strip(), SECRET, algorithms=["HS256"], issuer="me", audience="presence")
    assert (claims["sub"], claims["watch"]) == ("alice", ["bob", "carol"])
    assert 590 < claims["exp"] - time.time() <= 600
    made = answer(herenow("token", "--user", "alice", "--json", cwd=tmp_path, HERENOW_JWT_USER_CLAIM="uid"))
    assert made["expires"].endswith("Z")
    claims = jwt.decode(made["token"], SECRET, algorithms=["HS256"], issuer="me", audience="presence")
    assert (claims["uid"], "sub" in claims) == ("alice", False)


def test_a_key_is_shown_once_and_the_settings_get_its_digest(tmp_path: Path) -> None:
    made = answer(herenow("token", "--api-key", "--json", cwd=tmp_path))
    assert made["digest"] == "sha256:" + hashlib.sha256(made["key"].encode()).hexdigest()
    ended = herenow("token", "--admin-token", cwd=tmp_path)
    assert 'admin_tokens = ["sha256:' in ended.stdout
    assert made["key"] not in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--user"),
        (("--user", "alice", "--api-key"), "--user"),
        (("--api-key", "--for", "1h"), "--for"),
        (("--user", ""), "user id"),
        (("--user", "a\nb"), "user id"),
        (("--user", "alice"), "jwt_secret"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    ended = herenow("token", *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
