"""Who may ask what over HTTP.

- Reads need ``Authorization: Bearer <api_key>``; ``/v1/admin`` needs the admin token, which may read too.
- The admin token is random and made anew at each start. The server leaves it in a file beside the database that only
  its own user can read: whoever may read that file may write the database anyway.
- Under ``dev`` a request from this machine needs neither, if it was addressed to this machine by name. Otherwise any
  page in the developer's browser could come in: by a form that posts here (its ``Origin`` tells), or by a name of its
  own that it lets point to 127.0.0.1 (the ``Host`` tells).
"""

import hmac
import os
import secrets
from pathlib import Path
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


class TokenFile:
    """The admin token in a file that only the server's own user can read.

    Attributes:
        path: where it is.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.absolute().with_name(f"{database.name}-token")

    def write(self, token: str) -> None:
        """Put the token there, whole or not at all; never readable by others, not even for a moment.

        Raises:
            OSError: it cannot be written.
        """
        draft = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(file, token.encode())
            os.replace(draft, self.path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def read(self) -> str:
        """Read it.

        Raises:
            OSError: it is not there, or this user may not.
        """
        return self.path.read_text().strip()

    def remove(self, token: str) -> None:
        """Remove it, if it is still ours.

        Raises:
            OSError: it cannot be removed.
        """
        try:
            if self.read() == token:
                self.path.unlink()
        except FileNotFoundError:
            return


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
