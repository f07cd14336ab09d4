"""Who may ask what over HTTP.

- Reads need ``Authorization: Bearer <api_key>``; ``/v1/admin`` needs the admin token, which may read too.
- The admin token is random and made anew at each start. The server leaves it in a file beside the database that only
  its own user can read: whoever may read that file may write the database anyway.
- Under ``dev`` a request from this machine needs neither, if it was addressed to this machine by name. Otherwise any
  page in the developer's browser could come in: by a form that posts here (its ``Origin`` tells), or by a name of its
  own that it lets point to 127.0.0.1 (the ``Host`` tells).
"""

import hmac
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.requests import Request

from herenow.http.errors import Refused
from herenow.settings import Settings, is_loopback


class Access:
    """Decides whether a request is let in.

    Args:
        settings: say which key reads, and whether this is a first try on loopback.
        admin_token: what opens ``/v1/admin``.
    """

    def __init__(self, settings: Settings, admin_token: str) -> None:
        self._dev = settings.dev
        self._api_key = settings.api_key
        self._admin_token = admin_token

    def may_read(self, request: Request) -> bool:
        """Whether the request may read."""
        return self.may_maintain(request) or _is_same(_bearer(request), self._api_key)

    def may_maintain(self, request: Request) -> bool:
        """Whether the request may do what the commands do."""
        return _is_same(_bearer(request), self._admin_token) or (self._dev and _is_from_here(request))

    async def reader(self, request: Request) -> None:
        """Let in who may read.

        Raises:
            Refused: ``unauthorized``.
        """
        if not self.may_read(request):
            raise Refused("unauthorized", "send Authorization: Bearer and the api_key of this server's settings")

    async def maintainer(self, request: Request) -> None:
        """Let in who may do what the commands do.

        Raises:
            Refused: ``unauthorized``.
        """
        if not self.may_maintain(request):
            raise Refused("unauthorized", "send Authorization: Bearer and the token in the file beside the database")


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is_same(given: str, wanted: SecretStr | str | None) -> bool:
    """Compare in a time that tells nothing of the key. No key wanted: nothing fits."""
    key = wanted.get_secret_value() if isinstance(wanted, SecretStr) else wanted
    return bool(key) and hmac.compare_digest(given.encode(), str(key).encode())


def _is_from_here(request: Request) -> bool:
    if request.client is None or not is_loopback(request.client.host):
        return False
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "") and (origin is None or urlsplit(origin).netloc == host)
    except ValueError:  # a header that is no address at all
        return False
