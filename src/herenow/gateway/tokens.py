"""What a token says, once it is known to be true: JSON Web Tokens (RFC 7519), checked as RFC 8725 asks.

The signature is PyJWT's to check; what is signed is read straight into the types that it must have.
"""

import time
from typing import Annotated, Literal

import jwt
import msgspec

from herenow.gateway.events import WireError
from herenow.gateway.jwks import Jwks, KeysUnavailable
from herenow.gateway.keys import Key, that_fit
from herenow.tenancy import Tenant
from herenow.wire import UserId

MOST_WATCHED_BY_CLAIM = 10_000
"""Users that the claim ``watch`` may name."""

LONGEST_TOKEN = 32_768
"""Characters of a token, at most."""


_NO_TOKEN = "the token is not a JSON Web Token"

_verify = jwt.PyJWS().decode


class Claims(msgspec.Struct, frozen=True):
    """What herenow reads off a token.

    Attributes:
        sub: the user.
        exp: when it ends, in seconds since 1970; ``None``: never.
        watch: whom the user may watch, ``"*"`` for all.
        tenant: whose user it is.
    """

    sub: UserId
    exp: float | None = None
    watch: Literal["*"] | Annotated[frozenset[UserId], msgspec.Meta(max_length=MOST_WATCHED_BY_CLAIM)] = "*"
    tenant: Tenant | None = None


class _Signed(Claims, frozen=True):
    """All claims that are looked at: also those of which it is enough that they fit."""

    nbf: float | None = None
    iat: float | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


_read = msgspec.json.Decoder(_Signed).decode


class Verifier:
    """Tells true tokens from false ones.

    Args:
        keys: those at hand.
        jwks: where more of them come from.
        issuer: what ``iss`` must be, if anything.
        audience: what ``aud`` must hold. Without it, a token that has an ``aud`` is for somebody else (RFC 7519,
            section 4.1.3).
        leeway_s: how far the clocks of the issuer and of this server may differ.
    """

    def __init__(
        self,
        keys: list[Key],
        jwks: Jwks | None = None,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_s: float = 0.0,
    ) -> None:
        self._keys = keys
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s

    async def verify(self, token: str) -> Claims:
        """Return what a token says.

        Raises:
            WireError: ``token_expired``; ``unauthorized``, it is not true, or not for this server; ``internal``, the
                keys cannot be had now.
        """
        if len(token) > LONGEST_TOKEN:
            raise WireError("unauthorized", f"the token has more than {LONGEST_TOKEN:,} characters")
        payload = _signed_payload(token, await self._candidates(token))
        try:
            claims = _read(payload)
        except msgspec.ValidationError as error:
            raise WireError("unauthorized", f"the token's claims are not valid: {_claim(error)}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError("unauthorized", _NO_TOKEN) from error
        self._check(claims, time.time())
        return claims

    async def _candidates(self, token: str) -> list[Key]:
        """Choose the keys to try. Where there is but one, what the header says is the decoder's to check."""
        if self._jwks is None and len(self._keys) == 1 and self._keys[0].kid is None:
            return self._keys
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise WireError("unauthorized", _NO_TOKEN) from error
        algorithm, kid = str(header.get("alg")), header.get("kid")
        keys = that_fit(self._keys, algorithm, kid)
        if self._jwks is not None:
            try:
                keys += await self._jwks.find(algorithm, kid)
            except KeysUnavailable as error:
                if not keys:
                    raise WireError("internal", "the keys that tokens are signed with cannot be fetched now") from error
        return keys

    def _check(self, claims: _Signed, now_s: float) -> None:
        """See that the claims fit this server and this moment (RFC 7519, section 4.1)."""
        if claims.exp is not None and claims.exp <= now_s - self._leeway_s:
            raise WireError("token_expired", "the token has expired")
        for name, since_s in (("nbf", claims.nbf), ("iat", claims.iat)):
            if since_s is not None and since_s > now_s + self._leeway_s:
                raise WireError("unauthorized", f"the token is not valid yet: {name} lies ahead")
        if self._issuer is not None and claims.iss != self._issuer:
            raise WireError("unauthorized", "the token is not valid: iss is not the issuer that is expected")
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if audiences is not None and self._audience is None:
            raise WireError("unauthorized", "the token is not valid: it has an aud, and this server expects none")
        if self._audience is not None and self._audience not in (audiences or ()):
            raise WireError("unauthorized", "the token is not valid: aud does not name this server")


def _signed_payload(token: str, keys: list[Key]) -> bytes:
    """Return what one of the keys has signed."""
    for key in keys:
        try:
            payload: bytes = _verify(token, key.material, algorithms=[key.algorithm])
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
            continue  # perhaps another of the keys
        except jwt.DecodeError as error:
            raise WireError("unauthorized", _NO_TOKEN) from error
        except jwt.InvalidTokenError as error:
            raise WireError("unauthorized", f"the token is not valid: {str(error)[:200]}") from error
        return payload
    raise WireError("unauthorized", "the token is not signed with a key of this server")


def _claim(error: msgspec.ValidationError) -> str:
    """Which claim is wrong, or missing, as only ``sub`` can be; not what stands in it."""
    _, named, claim = str(error).rpartition("`$.")
    return claim.rstrip("`") if named else "sub"
