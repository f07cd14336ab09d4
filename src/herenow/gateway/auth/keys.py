"""The keys that tokens are signed with. A key carries its algorithms: what a token's header says never adds to them.

That rule is RFC 8725, section 3.1. Without it, a public key could be used as the secret of an HS256 token that anybody
signs, and ``none`` would need no key at all. A secret is for HS256; a public key for what its kind can verify, or for
the one algorithm of these that its JWK names (decision 028).
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import HMACAlgorithm

from herenow.settings import Settings

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
_ED25519: Final = ("EdDSA",)

PUBLIC_ALGORITHMS: Final = (*_RSA, *(name for names in _CURVES.values() for name in names), *_ED25519)
"""The algorithms of public keys that are taken."""

LEAST_RSA_BITS: Final = 2048
"""Shorter RSA keys are refused (RFC 7518, section 3.3)."""


class KeyUnfit(ValueError):
    """A key that cannot be used; the sentence says why, and never holds the key."""


class Key(msgspec.Struct, frozen=True):
    """One key.

    Attributes:
        algorithms: those that it verifies.
        material: what PyJWT verifies with.
        kid: its id, if it has one; a token that names another is not for it.
    """

    algorithms: tuple[str, ...]
    material: Any
    kid: str | None = None

    def fits(self, algorithm: str, kid: str | None) -> bool:
        """Whether a token with this header may be verified with it."""
        return algorithm in self.algorithms and (kid is None or self.kid is None or self.kid == kid)


class _KnownSecret(HMACAlgorithm):
    """HMAC with a secret that was looked through once: PyJWT does it anew with each token, for half of its price."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else super().prepare_key(key)


def of_secret(secret: str) -> Key:
    """Make an HS256 key.

    Raises:
        KeyUnfit: it is no secret, but a public key or a certificate.
    """
    encoded = urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    jwk = jwt.PyJWK({"kty": "oct", "alg": "HS256", "k": encoded})
    try:
        jwk.Algorithm.prepare_key(jwk.key)
    except jwt.InvalidKeyError as error:
        raise KeyUnfit("jwt_secret: it is a public key or a certificate; those go into jwt_public_keys") from error
    jwk.Algorithm = _KnownSecret(HMACAlgorithm.SHA256)
    return Key(("HS256",), jwk)


def of_pem(text: str) -> Key:
    """Make a key of a public key or a certificate in PEM.

    Raises:
        KeyUnfit: it is neither, or of a kind that is not taken.
    """
    data = text.encode()
    try:
        if "BEGIN CERTIFICATE" in text:
            return _of_public(load_pem_x509_certificate(data).public_key())
        return _of_public(load_pem_public_key(data))
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, KeyUnfit):
            raise
        if "PRIVATE KEY" in text:
            raise KeyUnfit("it is a private key: give the public one, and keep this where tokens are signed") from error
        raise KeyUnfit("it is neither a public key nor a certificate in PEM") from error


def of_file(path: Path) -> Key:
    """Make a key of a PEM file.

    Raises:
        KeyUnfit: it cannot be read, or as :func:`of_pem`.
    """
    try:
        return of_pem(path.read_text(encoding="ascii"))
    except UnicodeDecodeError as error:
        raise KeyUnfit("it is neither a public key nor a certificate in PEM") from error
    except OSError as error:
        raise KeyUnfit(f"it cannot be read: {(error.strerror or str(error)).lower()}") from error


def of_jwk_set(document: Any) -> list[Key]:
    """Make the keys of a JWK Set (RFC 7517); those that are not for verifying, or of no use here, are left out.

    Raises:
        KeyUnfit: none is left.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise KeyUnfit("it is no JWK Set")
    keys = [key for key in map(_of_jwk, entries) if key is not None]
    if not keys:
        raise KeyUnfit(f"none of its keys is a public one for {', '.join(PUBLIC_ALGORITHMS)}")
    return keys


def _of_jwk(entry: Any) -> Key | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    try:
        jwk = jwt.PyJWK(entry)
        key = _of_public(jwk.key)
    except (jwt.PyJWTError, KeyUnfit):
        return None
    named = entry.get("alg")
    if named is not None and named not in key.algorithms:
        return None
    return Key(key.algorithms if named is None else (named,), jwk.key, jwk.key_id)


def _of_public(key: object) -> Key:
    if isinstance(key, RSAPublicKey):
        if key.key_size < LEAST_RSA_BITS:
            raise KeyUnfit(f"an RSA key of {key.key_size} bits is too short: {LEAST_RSA_BITS} are the least")
        return Key(_RSA, key)
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return Key(_CURVES[key.curve.name], key)
    if isinstance(key, Ed25519PublicKey):
        return Key(_ED25519, key)
    raise KeyUnfit("its kind is not taken: RSA, ECDSA on P-256, P-384 or P-521, and Ed25519 are")


def of_settings(settings: Settings) -> list[Key]:
    """The keys that the settings hold: secrets first, then public keys. None of them is fetched.

    Raises:
        KeyUnfit: one cannot be used; the sentence names the setting.
    """
    secrets = [settings.jwt_secret, *settings.jwt_previous_secrets]
    keys = [of_secret(secret.get_secret_value()) for secret in secrets if secret is not None]
    for number, given in enumerate(settings.jwt_public_keys, 1):
        try:
            keys.append(of_pem(given) if "-----BEGIN" in given else of_file(Path(given)))
        except KeyUnfit as error:
            name = f"number {number}" if "-----BEGIN" in given else given
            raise KeyUnfit(f"jwt_public_keys ({name}): {error}") from error
    return keys


def that_fit(keys: Iterable[Key], algorithm: str, kid: str | None) -> list[Key]:
    """The keys that may verify a token with this header."""
    return [key for key in keys if key.fits(algorithm, kid)]
