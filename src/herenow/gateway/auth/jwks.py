"""The keys of an identity provider, fetched from its JWKS address.

- They are kept in memory. Once older than ``FRESH_S`` they still serve while new ones are fetched beside.
- An unknown key id fetches at once, or ``RETRY_S`` after the fetch before: a stranger's invented ids must not become a
  flood on the provider, and must not keep out who comes with a new key.
- An endpoint that fails, drips, or answers rubbish or without end leaves the old keys in force. It is logged, and tried
  again.
- All times are those of a steady clock: a wall clock that jumps and comes back leaves nothing behind.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from herenow.gateway.auth.fetching import FetchFailed, fetch
from herenow.gateway.auth.keys import Key, KeyUnfit, of_jwk_set, that_fit
from herenow.logs import get_logger
from herenow.supervision import OnFault, tell_loop
from herenow.urls import is_safe_url

log = get_logger("herenow.gateway")

FRESH_S: Final = 600.0
"""Keys older than this are fetched anew."""

RETRY_S: Final = 1.0
"""Between two fetches, at least. A token with an unknown key waits for the next: the endpoint is asked once a second by
all strangers with invented keys together, and no true token is refused that is newer than the keys here."""

FETCH_TIMEOUT_S: Final = 5.0
"""Within which the whole answer must be there."""

MAX_JWKS: Final = 262_144
"""Bytes of a JWK Set, at most: the largest that are published have a tenth of that."""


class KeysUnavailable(Exception):
    """No keys were ever fetched, and they cannot be fetched now."""


class Jwks:
    """The keys behind a JWKS address.

    Args:
        url: ``https://…/jwks.json``.
        is_allowed: whether a redirect may lead to an address.
        on_fault: told of a fault of our own while they are fetched.
    """

    def __init__(
        self, url: str, is_allowed: Callable[[str], bool] = is_safe_url, on_fault: OnFault = tell_loop
    ) -> None:
        self._url = url
        self._is_allowed = is_allowed
        self._on_fault = on_fault
        self._keys: Sequence[Key] = ()
        self._fetched_s: float | None = None
        self._tried_s = -RETRY_S
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, algorithm: str, kid: str | None, *, anew: bool = False) -> list[Key]:
        """Return the keys that may verify a token with this header.

        Args:
            algorithm: what it is signed with.
            kid: the key's id, if it names one.
            anew: look at the address first: what is known does not verify it.

        Raises:
            KeysUnavailable: there are none at all.
        """
        found = that_fit(self._keys, algorithm, kid)
        if anew or not found:
            await asyncio.shield(self._fetch())
            found = that_fit(self._keys, algorithm, kid)
        elif self._is_old():
            self._fetch()
        if not self._keys:
            raise KeysUnavailable
        return found

    def _is_old(self) -> bool:
        return self._fetched_s is None or time.monotonic() - self._fetched_s > FRESH_S

    def _fetch(self) -> "asyncio.Task[None]":
        """The fetch under way, or a new one, as soon as there may be one."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_in_time(), name="herenow jwks")
        return self._fetching

    async def _fetch_in_time(self) -> None:
        try:
            await asyncio.sleep(self._tried_s + RETRY_S - time.monotonic())
            self._tried_s = time.monotonic()
            body = await fetch(self._url, within_s=FETCH_TIMEOUT_S, most=MAX_JWKS, is_allowed=self._is_allowed)
            document: Any = msgspec.json.decode(body)
            self._keys = of_jwk_set(document)
            self._fetched_s = time.monotonic()
        except (FetchFailed, KeyUnfit, msgspec.DecodeError, RecursionError) as error:
            log.warning(
                "keys cannot be fetched", url=self._url.partition("?")[0], error=str(error), kept=len(self._keys)
            )
        except Exception as error:  # what nobody foresaw leaves the old keys in force too
            self._on_fault("jwks", error)
        finally:
            self._fetching = None
