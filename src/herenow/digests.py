"""Keys of which only the digest is written down. Pure."""

import hashlib
import re

HASHED = "sha256:"
"""How a key begins of which only the digest is written down."""


def digest_of(key: str) -> bytes:
    """The digest of a key, or that which is written in its place."""
    # A plain digest is enough: the keys are long and random, not words that somebody could try.
    return bytes.fromhex(key.removeprefix(HASHED)) if key.startswith(HASHED) else hashlib.sha256(key.encode()).digest()


def is_fit_key(key: str) -> bool:
    """Whether a key is long enough not to be guessed, or is a digest."""
    if key.startswith(HASHED):
        return re.fullmatch(r"[0-9a-f]{64}", key.removeprefix(HASHED)) is not None
    return len(key) >= 16 and key.isascii()
