"""Who may ask what over HTTP.

- Reads need ``Authorization: Bearer`` with one of ``api_keys``; ``/v1/admin`` needs one of ``admin_tokens``, which may
  read too. The settings may hold a key's digest instead of the key, and nothing else is kept in memory.
- The commands have an admin token of their own, random and made anew at each start. The server leaves it in a file
  beside the database that only its own user can read: whoever may read that file may write the database anyway.
- Under ``dev`` a request from this machine needs neither, if it was addressed to this machine by name. Otherwise any
  page in the developer's browser could come in: by a form that posts here (its ``Origin`` tells), or by a name of its
  own that it lets point to 127.0.0.1 (the ``Host`` tells).
"""

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request

from herenow.http.errors import Refused
from herenow.settings import HASHED, Settings, is_loopback


class Access:
    """Decides whether a request is let in.

    Args:
        settings: say which key reads, and whether this is a first try on loopback.
        admin_token: what opens ``/v1/admin``.
    """

    def __init__(self, settings: Settings, admin_token: str) -> None:
        self._dev = settings.dev
        self._readers = [_digest_of(key.get_secret_value()) for key in settings.api_keys]
        self._maintainers = [_digest_of(key.get_secret_value()) for key in settings.admin_tokens]
        self._maintainers.append(_digest(admin_token))

    def may_read(self, request: Request) -> bool:
        """Whether the request may read."""
        return self.may_maintain(request) or _is_one_of(_bearer(request), self._readers)

    def may_maintain(self, request: Request) -> bool:
        """Whether the request may do what the commands do."""
        return _is_one_of(_bearer(request), self._maintainers) or (self._dev and _is_from_here(request))

    async def reader(self, request: Request) -> None:
        """Let in who may read.

        Raises:
            Refused: ``unauthorized``.
        """
        if not self.may_read(request):
            raise Refused("unauthorized", "send Authorization: Bearer and one of this server's api_keys")

    async def maintainer(self, request: Request) -> None:
        """Let in who may do what the commands do.

        Raises:
            Refused: ``unauthorized``.
        """
        if not self.may_maintain(request):
            raise Refused("unauthorized", "send Authorization: Bearer and one of this server's admin_tokens")


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _digest(key: str) -> bytes:
    # A plain digest is enough: the keys are long and random, not words that somebody could try.
    return hashlib.sha256(key.encode()).digest()


def _digest_of(setting: str) -> bytes:
    return bytes.fromhex(setting.removeprefix(HASHED)) if setting.startswith(HASHED) else _digest(setting)


def _is_one_of(given: str, digests: Iterable[bytes]) -> bool:
    """Compare in a time that tells nothing of the keys, nor which of them it was."""
    digest = _digest(given)
    return sum(hmac.compare_digest(digest, each) for each in digests) > 0


def _is_from_here(request: Request) -> bool:
    if request.client is None or not is_loopback(request.client.host):
        return False
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "") and (origin is None or urlsplit(origin).netloc == host)
    except ValueError:  # a header that is no address at all
        return False
