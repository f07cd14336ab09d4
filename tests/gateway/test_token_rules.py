"""What time heals is refused for now only; and what foreign identity providers put into tokens, over a real port."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from websockets.asyncio.client import connect

from clients import Client, Refused
from gateway.test_tokens import EC, RSA, SECRET, jwk, pem, refused, signed
from herenow.errors import SettingsInvalid
from herenow.gateway import stays
from herenow.gateway.auth import identity, keys
from herenow.gateway.auth.identity import Identity
from herenow.gateway.auth.tokens import Verifier
from herenow.gateway.events import WireError
from herenow.presence import Presence
from herenow.settings import Settings
from herenow.socketio_server import Handshake
from support import Poller, receive, serving, websocket_url
from wired import mount_wire

P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())


def token(**claims: Any) -> str:
    return jwt.encode({"sub": "alice", **claims}, SECRET)


def verifier(**options: Any) -> Verifier:
    return Verifier([keys.of_secret(SECRET)], leeway_s=10, **options)


@asynccontextmanager
async def server(tmp_path: Path, authenticate: Any = None, **settings: Any) -> AsyncIterator[str]:
    app = FastAPI()
    given = {"jwt_secret": SECRET, "offline_within_s": 0.6, **settings}
    mount_wire(Presence(f"sqlite:///{tmp_path}/app.db", authenticate=authenticate, **given), app)
    async with serving(app) as url:
        yield url


class Clock:
    """A wall clock that can be set, and the steady one beside it, which cannot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + round(self.ahead_s * 1e9))


# -- passing trouble is passing ----------------------------------------------------------------------------------------


async def test_clocks_that_differ_by_the_leeway_keep_nobody_out() -> None:
    assert Settings.load().jwt_leeway_s == 10
    now = time.time()
    for claims in ({"exp": now - 5}, {"nbf": now + 5}, {"iat": now + 5}, {"iat": now + 100_000}, {"iat": "yesterday"}):
        assert (await verifier().verify(token(**claims))).user_id == "alice"
    assert (await refused(verifier(), token(exp=now - 11))).code == "token_expired"


async def test_the_leeway_counts_for_the_end_of_the_connection_too(tmp_path: Path) -> None:
    """A token of 5 s past its end would else be let in, and closed within a second."""
    async with server(tmp_path, jwt_leeway_s=4) as url:
        began_s = time.time()
        exp = began_s - 0.5
        alice = await Client.connect(url, token=token(exp=exp))
        await alice.until(alice.closed.is_set, 15)
        assert [error["code"] for error in alice.errors] == ["token_expiring", "token_expired"]
        assert time.time() >= exp + 4


@pytest.mark.parametrize(("ahead_s", "wait_ms"), [(12, (1_000, 2_001)), (40, (29_000, 30_001)), (1e9, (60_000,) * 2)])
async def test_a_token_of_the_near_future_is_refused_for_now_only(ahead_s: float, wait_ms: tuple[int, int]) -> None:
    error = await refused(verifier(), token(nbf=time.time() + ahead_s))
    body = error.body()
    assert (body["code"], body["temporary"]) == ("unauthorized", True)
    assert wait_ms[0] <= body["retryAfterMs"] <= wait_ms[1]


async def test_who_is_refused_for_now_is_told_when_to_come_again(tmp_path: Path) -> None:
    """On the wire, for each refusal that is temporary; and a refusal that is final has no such word."""
    async with server(tmp_path, max_connections_per_user=1) as url:
        alice = await Client.connect(url, token=token())
        for auth_, code, is_temporary in (
            ({"token": token(nbf=time.time() + 20)}, "unauthorized", True),
            ({"token": token()}, "too_many_connections", True),
            ({"token": "x"}, "unauthorized", False),
            ({"token": token(exp=1)}, "token_expired", False),
        ):
            with pytest.raises(Refused) as error:
                await Client.connect(url, **auth_)
            data = error.value.error["data"]
            assert (data["code"], data["temporary"], "retryAfterMs" in data) == (code, is_temporary, is_temporary)
        answer = await alice.call("presence:refresh", {"token": token(nbf=time.time() + 20)})
        assert answer["error"]["temporary"]
        assert 9_000 <= answer["error"]["retryAfterMs"] <= 10_000
        await alice.close()


async def test_after_the_clock_has_jumped_and_come_back_nobody_stays_shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    checked = verifier()
    good, old = token(nbf=time.time() - 60, exp=time.time() + 60), token(exp=time.time() - 60)
    clock.ahead_s = 3_600
    assert (await refused(checked, good)).body()["retryAfterMs"] <= 5_000
    assert (await refused(checked, old)).body() == {
        "code": "token_expired",
        "message": "the token has expired",
        "temporary": False,
    }
    clock.ahead_s = -3_600
    assert (await refused(checked, good)).body()["retryAfterMs"] <= 60_000
    clock.ahead_s = 0
    assert (await checked.verify(good)).user_id == "alice"


# -- an end that races -------------------------------------------------------------------------------------------------


def slow_to_say(ends_s: dict[str, float], waits: dict[str, asyncio.Event]) -> Callable[..., Awaitable[Identity]]:
    """An application's own check, in which each token waits until it is let go."""

    async def authenticate(given: Any, _: Handshake) -> Identity:
        if (wait := waits.get(given["token"])) is not None:
            await wait.wait()
        if given["token"] == "bad":
            raise WireError("unauthorized", "no")
        return Identity("alice", ends_s[given["token"]])

    return authenticate


async def test_a_newer_token_that_came_before_the_end_of_the_old_one_wins(tmp_path: Path) -> None:
    now_s = time.time()
    go = asyncio.Event()
    check = slow_to_say({"old": now_s + 1, "new": now_s + 1_000}, {"new": go})
    async with server(tmp_path, check) as url:
        alice = await Client.connect(url, token="old")
        refreshing = asyncio.create_task(alice.call("presence:refresh", {"token": "new"}))
        await asyncio.sleep(2.2)  # the end has passed, and been looked at
        assert not alice.closed.is_set()
        go.set()
        assert (await refreshing)["ok"]
        await asyncio.sleep(1.1)
        assert (await alice.call("presence:get", {"users": []}))["ok"]
        assert "token_expired" not in [error["code"] for error in alice.errors]
        await alice.close()


async def test_but_one_that_is_refused_or_never_comes_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stays, "REFRESHED_WITHIN_S", 1.0)
    now_s = time.time()
    go = asyncio.Event()
    check = slow_to_say({"old": now_s + 1}, {"bad": go, "never": asyncio.Event()})
    async with server(tmp_path, check) as url:
        alice, bob = await Client.connect(url, token="old"), await Client.connect(url, token="old")
        await alice.send("presence:refresh", {"token": "never"})
        await bob.send("presence:refresh", {"token": "bad"})
        go.set()
        await asyncio.gather(alice.until(alice.closed.is_set, 15), bob.until(bob.closed.is_set, 15))
        assert alice.errors[-1]["code"] == bob.errors[-1]["code"] == "token_expired"


async def test_of_two_newer_tokens_the_one_that_was_sent_last_counts(tmp_path: Path) -> None:
    """Also when the first takes longer to be looked at."""
    now_s = time.time()
    go = asyncio.Event()
    check = slow_to_say({"old": now_s + 50, "slow": now_s + 100, "quick": now_s + 5_000}, {"slow": go})
    async with server(tmp_path, check) as url:
        alice = await Client.connect(url, token="old")
        slow = asyncio.create_task(alice.call("presence:refresh", {"token": "slow"}))
        await asyncio.sleep(0.1)
        quick = asyncio.create_task(alice.call("presence:refresh", {"token": "quick"}))
        await asyncio.sleep(0.1)
        assert not quick.done()
        go.set()
        assert (await slow)["expires"] < (await quick)["expires"]
        await alice.close()


async def test_an_end_that_comes_while_its_client_is_let_in_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fell due when there was no connection yet to be closed, and then stayed for ever."""
    app = FastAPI()
    presence = Presence(f"sqlite:///{tmp_path}/app.db", jwt_secret=SECRET, jwt_leeway_s=0)
    mount_wire(presence, app)
    async with serving(app) as url:
        registry = presence.registry_of(None)
        connect = registry.connect

        async def slowly(*args: Any, **options: Any) -> None:
            await asyncio.sleep(1.7)
            await connect(*args, **options)

        monkeypatch.setattr(registry, "connect", slowly)
        alice = await Client.connect(url, token=token(exp=time.time() + 0.5))
        await alice.until(alice.closed.is_set, 15)
        assert alice.errors[-1]["code"] == "token_expired"


# -- what providers send -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "private"),
    [*((name, RSA) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
     ("ES256", EC), ("ES384", P384), ("ES512", P521)],
)  # fmt: skip
async def test_each_algorithm_of_public_keys_is_taken(algorithm: str, private: Any) -> None:
    signed_so = signed(algorithm, key=private, kid="1")
    assert (await Verifier([keys.of_pem(pem(private))]).verify(signed_so)).user_id == "alice"
    named = jwk(algorithm, "1", private)
    unnamed = {name: value for name, value in named.items() if name != "alg"}
    for document in (named, unnamed):
        assert (await Verifier(keys.of_jwk_set({"keys": [document]})).verify(signed_so)).user_id == "alice"


async def test_a_key_that_names_its_algorithm_is_for_no_other() -> None:
    [named] = keys.of_jwk_set({"keys": [jwk("RS512", "1", RSA)]})
    error = await refused(Verifier([named]), signed("RS256", kid="1"))
    assert error.message == "the token is signed with 'RS256', and this server's keys are for RS512"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_another_algorithm_is_refused_with_those_that_are_taken(algorithm: str) -> None:
    error = await refused(verifier(), jwt.encode({"sub": "alice"}, SECRET * 2, algorithm=algorithm))
    assert error.message == f"the token is signed with {algorithm!r}, and this server's keys are for HS256"
    assert not error.temporary


async def test_an_encrypted_token_is_called_so() -> None:
    encrypted = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.b2s.aXY.dGV4dA.dGFn"
    for each in (verifier(), Verifier([keys.of_secret(SECRET), keys.of_pem(pem(EC))])):
        assert "encrypted (JWE)" in (await refused(each, encrypted)).message


async def test_a_number_as_the_user_stands_for_its_digits() -> None:
    made = jwt.api_jws.PyJWS().encode(b'{"sub":7}', SECRET, algorithm="HS256")
    assert (await verifier().verify(made)).user_id == "7"


async def test_another_claim_may_be_the_user() -> None:
    for claim in ("uid", "https://app.example/user_id"):
        checked = verifier(user_claim=claim)
        assert (await checked.verify(token(**{claim: "bob"}))).user_id == "bob"
        assert (await checked.verify(token(**{claim: 7}))).user_id == "7"
        error = await refused(checked, token())
        assert claim in error.message
        assert "jwt_user_claim" in error.message
    made = identity.from_settings(Settings.load(jwt_secret=SECRET, jwt_user_claim="uid"))
    assert made is not None
    found = made({"token": token(uid="carol")}, Handshake("", (), None))
    assert not isinstance(found, Identity)
    assert (await found).user_id == "carol"
    with pytest.raises(SettingsInvalid, match="jwt_user_claim"):
        Settings.load(jwt_user_claim="exp")


async def test_a_native_client_may_bring_its_token_in_the_handshake(tmp_path: Path) -> None:
    """On both transports; what the CONNECT brings weighs more, and a header of another kind is none."""
    async with server(tmp_path) as url:
        bearer = {"Authorization": f"bearer {token()}"}
        async with connect(websocket_url(url), additional_headers=bearer) as ws:
            await ws.recv()
            await ws.send("40")
            assert str(await receive(ws)).startswith("40")
            assert '"userId":"alice"' in str(await receive(ws))
        async with connect(websocket_url(url), additional_headers=bearer) as ws:
            await ws.recv()
            await ws.send('40{"token":"x"}')
            assert str(await receive(ws)).startswith("44")
        async with Poller(url, headers=bearer) as poller:
            await poller.open()
            await poller.post("40{}")
            assert '"userId":"alice"' in (await poller.get()).text
        async with Poller(url, headers={"Authorization": "Basic YTpi"}) as poller:
            await poller.open()
            await poller.post("40")
            assert "Authorization: Bearer" in (await poller.get()).text
