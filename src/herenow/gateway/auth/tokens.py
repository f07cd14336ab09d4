"""What a token says, once it is known to be true: JSON Web Tokens (RFC 7519), checked as RFC 8725 asks.

The signature is PyJWT's to check; what is signed is read straight into the types that it must have.
"""

import time
from collections.abc import Callable
from typing import Annotated, Literal

import jwt
import msgspec

from herenow.gateway.auth.jwks import Jwks, KeysUnavailable
from herenow.gateway.auth.keys import PUBLIC_ALGORITHMS, Key, that_fit
from herenow.gateway.events import WireError, soon_ms
from herenow.tenancy import Tenant
from herenow.times import unix_s
from herenow.wire import UserId

MOST_WATCHED_BY_CLAIM = 10_000
"""Users that the claim ``watch`` may name."""

LONGEST_TOKEN = 32_768
"""Characters of a token, at most."""


LONGEST_WAIT_S = 60.0
"""Who comes too early is told to wait for no longer, whatever the token says: it may be our clock that is wrong."""

_NO_TOKEN = "the token is not a JSON Web Token"

_verify = jwt.PyJWS().decode

_WholeNumber = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""As a JSON number it is the same everywhere; a larger one would be rounded by half of those who sign."""


class Claims(msgspec.Struct, frozen=True):
    """What herenow reads off a token.

    Attributes:
        sub: the user; a number stands for its digits.
        exp: when it ends, in seconds since 1970; ``None``: never.
        watch: whom the user may watch, ``"*"`` for all.
        tenant: whose user it is.
    """

    sub: UserId | _WholeNumber
    exp: float | None = None
    watch: Literal["*"] | Annotated[frozenset[UserId], msgspec.Meta(max_length=MOST_WATCHED_BY_CLAIM)] = "*"
    tenant: Tenant | None = None

    @property
    def user_id(self) -> str:
        """The user's id."""
        return str(self.sub)


class _Signed(Claims, frozen=True):
    """All claims that are looked at: also those of which it is enough that they fit."""

    nbf: float | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


def _reader(user_claim: str) -> Callable[[bytes], _Signed]:
    """Return what reads the claims, the user from this one."""
    if user_claim == "sub":
        return msgspec.json.Decoder(_Signed).decode
    user = ("sub", UserId | _WholeNumber, msgspec.field(name=user_claim))
    named: type[_Signed] = msgspec.defstruct("_Named", [user], bases=(_Signed,), frozen=True)  # type: ignore[assignment]
    return msgspec.json.Decoder(named).decode


def _steady_s() -> float:
    """A clock that nobody sets, and that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Verifier:
    """Tells true tokens from false ones.

    Args:
        keys: those at hand.
        jwks: where more of them come from.
        issuer: what ``iss`` must be, if anything.
        audience: what ``aud`` must hold. Without it, a token that has an ``aud`` is for somebody else (RFC 7519,
            section 4.1.3).
        leeway_s: how far the clocks of the issuer and of this server may differ.
        user_claim: which claim is the user.
    """

    def __init__(
        self,
        keys: list[Key],
        jwks: Jwks | None = None,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_s: float = 0.0,
        user_claim: str = "sub",
    ) -> None:
        self._keys = keys
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._user_claim = user_claim
        self._read = _reader(user_claim)
        self._began_s = unix_s() - _steady_s()
        self.leeway_s = leeway_s

    async def verify(self, token: str) -> Claims:
        """Return what a token says.

        Raises:
            WireError: ``token_expired``; ``unauthorized``, it is not true, or not for this server, or not yet;
                ``internal``, the keys cannot be had now. What time heals says when to try again.
        """
        if len(token) > LONGEST_TOKEN:
            raise WireError("unauthorized", f"the token has more than {LONGEST_TOKEN:,} characters")
        payload = await self._signed_payload(token)
        try:
            claims = self._read(payload)
        except msgspec.ValidationError as error:
            raise WireError("unauthorized", self._unfit(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError("unauthorized", _NO_TOKEN) from error
        self._check(claims, unix_s())
        return claims

    # -- the signature -----------------------------------------------------------------------------------------------

    async def _signed_payload(self, token: str) -> bytes:
        """Return what one of the keys has signed."""
        if self._jwks is None and len(self._keys) == 1 and self._keys[0].kid is None:
            # What the header says is the decoder's to check, and is looked at only to say what is wrong.
            payload = _verified(token, self._keys)
            if payload is not None:
                return payload
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise WireError("unauthorized", _what_else(token)) from error
        algorithm, kid = str(header.get("alg")), header.get("kid")
        payload = _verified(token, that_fit(self._keys, algorithm, kid))
        if payload is None and self._jwks is not None and algorithm in PUBLIC_ALGORITHMS:
            payload = await self._fetched(self._jwks, token, algorithm, kid)
        if payload is None:
            raise WireError("unauthorized", self._why_not(algorithm))
        return payload

    async def _fetched(self, jwks: Jwks, token: str, algorithm: str, kid: str | None) -> bytes | None:
        """Verify with the provider's keys. Where none may be the right one, it may be published in a moment."""
        try:
            found = await jwks.find(algorithm, kid)
            payload = _verified(token, found)
            if payload is None and found and kid is None:
                payload = _verified(token, await jwks.find(algorithm, kid, anew=True))
        except KeysUnavailable as error:
            sentence = "the keys that tokens are signed with cannot be fetched now"
            raise WireError("internal", sentence, retry_after_ms=soon_ms()) from error
        if payload is None and (kid is None or not found):
            sentence = "the token is not signed with a key that is published yet at jwt_jwks_url"
            raise WireError("unauthorized", sentence, retry_after_ms=soon_ms())
        return payload

    def _why_not(self, algorithm: str) -> str:
        taken = {name for key in self._keys for name in key.algorithms}
        taken.update(() if self._jwks is None else PUBLIC_ALGORITHMS)
        if algorithm in taken:
            return "the token is not signed with a key of this server"
        return f"the token is signed with {algorithm[:20]!r}, and this server's keys are for {', '.join(sorted(taken))}"

    # -- the claims --------------------------------------------------------------------------------------------------

    def _unfit(self, error: msgspec.ValidationError) -> str:
        """Say which claim is wrong, or missing, as only the user can be; not what stands in it."""
        _, named, claim = str(error).rpartition("`$.")
        claim = claim.rstrip("`").partition("[")[0] if named else self._user_claim
        if claim != self._user_claim:
            return f"the token's claims are not valid: {claim}"
        return (
            f"the token's claims are not valid: {claim[:80]} must be the user, 1 to 128 characters without control "
            "characters or a whole number below 2^53; another claim than that is read if jwt_user_claim names it"
        )

    def _check(self, claims: _Signed, now_s: float) -> None:
        """See that the claims fit this server and this moment (RFC 7519, section 4.1).

        An ``iat`` that lies ahead is no reason to refuse: the RFC gives it no such meaning, and what it would show, a
        clock that is wrong, may be ours.
        """
        if claims.exp is not None and claims.exp <= now_s - self.leeway_s:
            raise self._expired(claims.exp)
        if claims.nbf is not None and claims.nbf > now_s + self.leeway_s:
            wait_s = min(max(claims.nbf - self.leeway_s - now_s, 1.0), LONGEST_WAIT_S)
            sentence = "the token is not valid yet: nbf lies ahead"
            raise WireError("unauthorized", sentence, retry_after_ms=round(wait_s * 1000))
        if self._issuer is not None and claims.iss != self._issuer:
            raise WireError("unauthorized", "the token is not valid: iss is not the issuer that is expected")
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if audiences is not None and self._audience is None:
            raise WireError("unauthorized", "the token is not valid: it has an aud, and this server expects none")
        if self._audience is not None and self._audience not in (audiences or ()):
            raise WireError("unauthorized", "the token is not valid: aud does not name this server")

    def _expired(self, exp_s: float) -> WireError:
        """Refuse a token whose time is over; for now only, if it is so because this machine's clock was set ahead."""
        if exp_s > self._began_s + _steady_s() - self.leeway_s:
            sentence = "the token has expired by this server's clock, which was set ahead since its start"
            return WireError("token_expired", sentence, retry_after_ms=soon_ms())
        return WireError("token_expired", "the token has expired")


def _verified(token: str, keys: list[Key]) -> bytes | None:
    """Return what one of the keys has signed; ``None`` if none has."""
    for key in keys:
        try:
            payload: bytes = _verify(token, key.material, algorithms=key.algorithms)
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
            continue  # perhaps another of the keys
        except jwt.DecodeError as error:
            raise WireError("unauthorized", _what_else(token)) from error
        except jwt.InvalidTokenError as error:
            raise WireError("unauthorized", f"the token is not valid: {str(error)[:200]}") from error
        return payload
    return None


def _what_else(token: str) -> str:
    if token.count(".") == 4:  # RFC 7516, section 3.1
        return "the token is encrypted (JWE); this server takes signed ones (JWS): have the provider only sign them"
    return _NO_TOKEN
