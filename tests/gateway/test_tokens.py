"""Tokens, true and false, against every kind of key; and the keys of a real JWKS endpoint that comes and goes."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from herenow.errors import SettingsInvalid
from herenow.gateway.auth import identity, jwks, keys
from herenow.gateway.auth.jwks import Jwks
from herenow.gateway.auth.tokens import Verifier
from herenow.gateway.events import WireError
from herenow.settings import Settings
from support import serving, until

SECRET = "a secret of at least thirty-two bytes"

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SIGNERS: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}


def pem(private: Any) -> str:
    public: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


def signed(algorithm: str, *, kid: str | None = None, key: Any = None, **claims: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({"sub": "alice", **claims}, key or SIGNERS[algorithm], algorithm=algorithm, headers=headers)


def jwk(algorithm: str, kid: str, private: Any = None) -> dict[str, Any]:
    made = jwt.get_algorithm_by_name(algorithm)
    document = made.to_jwk((private or SIGNERS[algorithm]).public_key(), as_dict=True)
    return {**document, "kid": kid, "alg": algorithm, "use": "sig"}


async def refused(verifier: Verifier, token: str) -> WireError:
    with pytest.raises(WireError) as error:
        await verifier.verify(token)
    return error.value


# -- keys at hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_public_key_verifies_what_its_private_key_signed(algorithm: str) -> None:
    verifier = Verifier([keys.of_pem(pem(SIGNERS[algorithm]))])
    assert (await verifier.verify(signed(algorithm))).sub == "alice"
    for other in SIGNERS.keys() - {algorithm}:
        assert (await refused(verifier, signed(other))).code == "unauthorized"


async def test_several_keys_at_once_so_that_one_can_be_changed() -> None:
    settings = Settings.load(
        jwt_secret=SECRET, jwt_previous_secrets=["b" * 32, "c" * 32], jwt_public_keys=[pem(EC), pem(RSA)]
    )
    verifier = Verifier(keys.of_settings(settings))
    for token in (signed("HS256", key=SECRET), signed("HS256", key="c" * 32), signed("ES256"), signed("RS256")):
        assert (await verifier.verify(token)).sub == "alice"
    assert (await refused(verifier, signed("HS256", key="d" * 32))).code == "unauthorized"


async def test_a_public_key_is_no_secret() -> None:
    """The classic: an HS256 token signed with the text of the public key."""
    for text in (pem(RSA), pem(RSA).strip(), pem(EC)):
        head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
        body = base64.urlsafe_b64encode(b'{"sub":"alice"}').rstrip(b"=")
        made = jwt.get_algorithm_by_name("HS256")
        signature = base64.urlsafe_b64encode(made.sign(head + b"." + body, text.encode())).rstrip(b"=")
        forged = b".".join((head, body, signature)).decode()
        verifier = Verifier([keys.of_pem(pem(RSA)), keys.of_pem(pem(EC)), keys.of_secret(SECRET)])
        assert (await refused(verifier, forged)).code == "unauthorized"


def test_nor_may_one_be_set_as_the_secret() -> None:
    """Else everybody could sign: it is public. Other libraries have had that hole."""
    for text in (pem(RSA), pem(EC)):
        with pytest.raises(SettingsInvalid, match="jwt_public_keys"):
            identity.from_settings(Settings.load(jwt_secret=text))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": ""},
        {"alg": None},
        {"alg": ["HS256"]},
        {"alg": "RS256", "jwk": jwk("RS256", "mine")},
        {"alg": "RS256", "jku": "http://127.0.0.1:1/mine", "kid": "../../x"},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "kid": 7},
        {"alg": "HS256", "kid": "a" * 10_000},
        {},
        [],
    ],
)
async def test_what_the_header_says_opens_nothing(header: Any) -> None:
    verifier = Verifier([keys.of_secret(SECRET), keys.of_pem(pem(EC))])
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, {"sub": "alice"})]
    for signature in (b"", b"AAAA", b"!"):
        assert (await refused(verifier, b".".join((*parts, signature)).decode())).code == "unauthorized"


@pytest.mark.parametrize("token", ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\x00", "é.é.é", "e30.e30.", "x" * 40_000])
async def test_rubbish_is_no_token(token: str) -> None:
    assert (await refused(Verifier([keys.of_secret(SECRET)]), token)).code == "unauthorized"


@pytest.mark.parametrize(
    "payload", [b'{"sub":"\xff"}', b"\xff", b"", b"{", b"[]", b"null", b"{}", b'{"sub":"\\ud800"}']
)
async def test_what_is_signed_must_be_claims(payload: bytes) -> None:
    error = await refused(Verifier([keys.of_secret(SECRET)]), jwt.PyJWS().encode(payload, SECRET, algorithm="HS256"))
    assert error.code == "unauthorized"
    assert error.message.startswith(("the token is not a JSON Web Token", "the token's claims are not valid: sub "))


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": int(time.time()) - 10}, "token_expired"),
        ({"exp": "soon"}, "unauthorized"),
        ({"exp": 1e400}, "unauthorized"),
        ({"nbf": int(time.time()) + 1000}, "unauthorized"),
        ({"iss": "another"}, "unauthorized"),
        ({"iss": None}, "unauthorized"),
        ({"aud": "another"}, "unauthorized"),
        ({"aud": None}, "unauthorized"),
        ({"aud": 5}, "unauthorized"),
        ({"aud": ["shop", "presences"]}, "unauthorized"),
        ({"exp": "tomorrow"}, "unauthorized"),
        ({"nbf": True}, "unauthorized"),
        ({"sub": "x" * 129}, "unauthorized"),
        ({"sub": "a\nb"}, "unauthorized"),
        ({"sub": -5}, "unauthorized"),
        ({"sub": 2**53}, "unauthorized"),
        ({"sub": 5.5}, "unauthorized"),
        ({"sub": True}, "unauthorized"),
        ({"sub": ["alice"]}, "unauthorized"),
        ({"watch": 5}, "unauthorized"),
        ({"watch": "everybody"}, "unauthorized"),
        ({"watch": ["bob", 5]}, "unauthorized"),
        ({"watch": [str(number) for number in range(10_001)]}, "unauthorized"),
    ],
)
async def test_a_claim_that_does_not_hold(claims: dict[str, Any], code: str) -> None:
    verifier = Verifier([keys.of_secret(SECRET)], issuer="login", audience="presence")
    good = {"sub": "alice", "iss": "login", "aud": ["presence", "shop"]}
    assert (await verifier.verify(jwt.encode(good, SECRET))).watch == "*"
    given = {name: value for name, value in (good | claims).items() if value is not None}
    body = base64.urlsafe_b64encode(json.dumps(given).encode()).rstrip(b"=")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=")
    made = jwt.get_algorithm_by_name("HS256")
    signature = base64.urlsafe_b64encode(made.sign(head + b"." + body, SECRET.encode())).rstrip(b"=")
    error = await refused(verifier, b".".join((head, body, signature)).decode())
    assert error.code == code
    assert len(error.message) < 300


async def test_a_token_for_somebody_else_is_not_for_a_server_without_a_name() -> None:
    verifier = Verifier([keys.of_secret(SECRET)])
    assert (await refused(verifier, signed("HS256", key=SECRET, aud="shop"))).code == "unauthorized"


async def test_the_leeway_is_for_clocks_that_differ() -> None:
    token = signed("HS256", key=SECRET, exp=int(time.time()) - 5)
    assert (await refused(Verifier([keys.of_secret(SECRET)]), token)).code == "token_expired"
    assert (await Verifier([keys.of_secret(SECRET)], leeway_s=30).verify(token)).sub == "alice"


# -- keys in the settings ----------------------------------------------------------------------------------------------


def private_pem() -> str:
    return ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "number 1"),
        (private_pem(), "private key"),
        (pem(rsa.generate_private_key(public_exponent=65_537, key_size=1024)), "1024 bits"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        ("/there/is/none.pem", "/there/is/none.pem"),
    ],
)
def test_a_key_that_cannot_be_used_is_an_error_at_the_start(given: str, words: str) -> None:
    with pytest.raises(SettingsInvalid, match="jwt_public_keys") as error:
        identity.from_settings(Settings.load(jwt_public_keys=[given]))
    assert words in str(error.value)
    assert "BEGIN" not in str(error.value)


def test_a_key_may_lie_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "login.pem"
    path.write_text(pem(ED))
    [key] = keys.of_settings(Settings.load(jwt_public_keys=[str(path)]))
    assert key.algorithms == ("EdDSA",)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsInvalid, match=r"login\.pem"):
        identity.from_settings(Settings.load(jwt_public_keys=[str(path)]))


@pytest.mark.parametrize("url", ["http://login.example/jwks", "ftp://x/", "jwks.json", "https://", "http://[x"])
def test_keys_do_not_come_over_an_open_line(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="jwt_jwks_url"):
        Settings.load(jwt_jwks_url=url)


def test_a_set_without_a_public_key_is_of_no_use() -> None:
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode(), "kid": "s"}
    documents: list[dict[str, Any]] = [
        {},
        {"keys": []},
        {"keys": [secret]},
        {"keys": [{"kty": "RSA"}]},
        {"keys": 5},
        {"keys": [5]},
    ]
    for document in documents:
        with pytest.raises(keys.KeyUnfit):
            keys.of_jwk_set(document)
    encrypting = {**jwk("RS256", "e"), "use": "enc"}
    lying = {**jwk("ES256", "l"), "alg": "HS256"}
    [key] = keys.of_jwk_set({"keys": [secret, encrypting, lying, jwk("EdDSA", "good")]})
    assert (key.kid, key.algorithms) == ("good", ("EdDSA",))


# -- an identity provider ----------------------------------------------------------------------------------------------


class Provider:
    """A JWKS endpoint that can change its keys, fail and be counted."""

    def __init__(self) -> None:
        self.body: Any = {"keys": []}
        self.status = 200
        self.asked = 0
        self.delay_s = 0.0

    async def answer(self, request: Request) -> Response:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return Response(body, self.status)


@asynccontextmanager
async def provider() -> AsyncIterator[tuple[Provider, str]]:
    made = Provider()
    async with serving(Starlette(routes=[Route("/jwks", made.answer)])) as url:
        yield made, f"{url}/jwks"


async def test_keys_are_fetched_once_for_all_who_ask_together() -> None:
    async with provider() as (made, url):
        made.body, made.delay_s = {"keys": [jwk("RS256", "1"), jwk("ES256", "2")]}, 0.1
        verifier = Verifier([], Jwks(url))
        tokens = [signed("RS256", kid="1"), signed("ES256", kid="2")] * 10
        claims = await asyncio.gather(*map(verifier.verify, tokens))
        assert {each.sub for each in claims} == {"alice"}
        assert made.asked == 1


async def test_an_unknown_key_id_fetches_but_not_as_often_as_a_stranger_likes() -> None:
    async with provider() as (made, url):
        made.body = {"keys": [jwk("RS256", "1")]}
        verifier = Verifier([], Jwks(url))
        await verifier.verify(signed("RS256", kid="1"))
        made.body = {"keys": [jwk("ES256", "2")]}
        made_up = [refused(verifier, signed("ES256", kid=f"made up {number}")) for number in range(50)]
        began_s = time.monotonic()
        strangers = asyncio.gather(*made_up)
        assert (await verifier.verify(signed("ES256", kid="2"))).sub == "alice"
        errors = await strangers
        assert {error.code for error in errors} == {"unauthorized"}
        assert made.asked == 2
        assert 0.5 < time.monotonic() - began_s < jwks.RETRY_S + 1
        assert (await refused(verifier, signed("RS256", kid="1"))).code == "unauthorized"  # its key was withdrawn


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (200, b"<html>"),
        (200, {"keys": []}),
        (200, [1]),
        (302, b""),
        (200, b"\xff"),
        (200, b"[" * 100_000),
    ],
)
async def test_an_endpoint_that_fails_leaves_the_old_keys(
    status: int, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "RETRY_S", 0.0)
    monkeypatch.setattr(jwks, "FRESH_S", 0.0)
    async with provider() as (made, url):
        made.body = {"keys": [jwk("RS256", "1")]}
        verifier = Verifier([], Jwks(url))
        await verifier.verify(signed("RS256", kid="1"))
        made.status, made.body = status, body
        for _ in range(3):
            assert (await verifier.verify(signed("RS256", kid="1"))).sub == "alice"
            await asyncio.sleep(0.05)  # the fetch beside it
        await until(lambda: made.asked > 1)
        assert (await refused(verifier, signed("ES256", kid="2"))).code == "unauthorized"


async def test_without_any_key_a_client_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "RETRY_S", 0.0)
    async with provider() as (made, url):
        made.status = 503
        verifier = Verifier([], Jwks(url))
        error = await refused(verifier, signed("RS256", kid="1"))
        assert (error.code, error.temporary) == ("internal", True)
        made.status, made.body = 200, {"keys": [jwk("RS256", "1")]}
        assert (await verifier.verify(signed("RS256", kid="1"))).sub == "alice"


async def test_a_client_that_goes_does_not_end_the_fetch_of_the_others() -> None:
    async with provider() as (made, url):
        made.body, made.delay_s = {"keys": [jwk("RS256", "1")]}, 0.2
        verifier = Verifier([], Jwks(url))
        first = asyncio.create_task(verifier.verify(signed("RS256", kid="1")))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(verifier.verify(signed("RS256", kid="1")))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await second).sub == "alice"
        assert made.asked == 1
