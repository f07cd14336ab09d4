"""Who may ask what over HTTP.

- Reads need ``Authorization: Bearer`` with one of ``api_keys``, which reads the users of no tenant, or one of
  ``tenant_api_keys``, which reads one tenant. ``/v1/admin`` needs one of ``admin_tokens``, which may read too, and may
  name any tenant. The settings may hold a key's digest instead of the key, and nothing else is kept in memory.
- What is of the whole server, ``/metrics`` and the numbers of ``/readyz``, is for the operator: ``api_keys`` and
  ``admin_tokens``. A tenant's key is told nothing that depends on others.
- The commands have an admin token of their own, random and made anew at each start. The server leaves it in a file
  beside the database that only its own user can read: whoever may read that file may write the database anyway.
- Under ``dev`` a request from this machine needs neither, if it was addressed to this machine by name, and no proxy on
  this machine brought it from elsewhere. Otherwise any page in the developer's browser could come in: by a form that
  posts here (its ``Origin`` tells), or by a name of its own that it lets point to 127.0.0.1 (the ``Host`` tells).
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Query
from starlette.requests import Request

from herenow.digests import digest_of
from herenow.http.errors import Refused
from herenow.settings import Settings
from herenow.tenancy import MAX_TENANT_LENGTH, TENANT_PATTERN
from herenow.urls import is_loopback

IsHere = Callable[[str, Iterable[tuple[bytes, bytes]]], bool]

TenantAsked = Annotated[
    str | None,
    Query(
        alias="tenant",
        min_length=1,
        max_length=MAX_TENANT_LENGTH,
        pattern=TENANT_PATTERN,
        description="Whose users: an operator may name any tenant, a tenant's key only its own.",
    ),
]


async def _of_tenant(request: Request, asked: TenantAsked = None) -> str | None:
    # `asked` so that this is not called where the guard was not: for a name that none can have.
    tenant: str | None = request.state.tenant
    return tenant


OfTenant = Annotated[str | None, Depends(_of_tenant)]
"""The tenant that a request was let in for: what it is told must be of it alone. Behind one of the guards below."""


class Access:
    """Decides whether a request is let in.

    Args:
        settings: say which key reads, and whether this is a first try on loopback.
        admin_token: what opens ``/v1/admin``.
        is_here: whether a request with this peer and these headers comes from this machine.
    """

    def __init__(self, settings: Settings, admin_token: str, is_here: IsHere) -> None:
        self._dev = settings.dev
        self._is_here = is_here
        self._readers = [digest_of(key.get_secret_value()) for key in settings.api_keys]
        # By digest: how long it takes to find one tells nothing of the key.
        self._of_tenants = {
            digest_of(key.get_secret_value()): tenant
            for tenant, keys in settings.tenant_api_keys.items()
            for key in keys
        }
        self._maintainers = [digest_of(key.get_secret_value()) for key in settings.admin_tokens]
        self._maintainers.append(digest_of(admin_token))

    def may_see_all(self, request: Request) -> bool:
        """Whether the request may see what is of the whole server."""
        return self.may_maintain(request) or _is_one_of(_bearer(request), self._readers)

    def may_maintain(self, request: Request) -> bool:
        """Whether the request may do what the commands do."""
        return _is_one_of(_bearer(request), self._maintainers) or (self._dev and self._is_from_here(request))

    async def reader(self, request: Request, tenant: TenantAsked = None) -> None:
        """Let in who may read, for one tenant.

        Raises:
            Refused: ``unauthorized``; ``forbidden``, the key is not that tenant's.
        """
        own = self._tenant_of(request)
        if own is None and not self.may_see_all(request):
            raise Refused("unauthorized", "send Authorization: Bearer and one of this server's api_keys")
        if tenant not in (None, own) and not self.may_maintain(request):
            raise Refused("forbidden", "this key does not read that tenant")
        request.state.tenant = own if tenant is None else tenant

    async def overseer(self, request: Request) -> None:
        """Let in who may see what is of the whole server.

        Raises:
            Refused: ``unauthorized``; ``forbidden``, the key is a tenant's.
        """
        if not self.may_see_all(request):
            if self._tenant_of(request) is not None:
                raise Refused("forbidden", "a tenant's key reads its tenant, and not what is of the whole server")
            raise Refused("unauthorized", "send Authorization: Bearer and one of this server's api_keys")

    async def maintainer(self, request: Request, tenant: TenantAsked = None) -> None:
        """Let in who may do what the commands do.

        Raises:
            Refused: ``unauthorized``.
        """
        if not self.may_maintain(request):
            raise Refused("unauthorized", "send Authorization: Bearer and one of this server's admin_tokens")
        request.state.tenant = tenant

    def _is_from_here(self, request: Request) -> bool:
        if request.client is None or not self._is_here(request.client.host, request.headers.raw):
            return False
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        try:
            is_same = origin is None or urlsplit(origin).netloc == host
            return is_loopback(urlsplit(f"//{host}").hostname or "") and is_same
        except ValueError:  # a header that is no address at all
            return False

    def _tenant_of(self, request: Request) -> str | None:
        """The tenant whose key was sent."""
        return self._of_tenants.get(_digest(_bearer(request)))


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _digest(given: str) -> bytes:
    return hashlib.sha256(given.encode()).digest()


def _is_one_of(given: str, digests: Iterable[bytes]) -> bool:
    """Compare in a time that tells nothing of the keys, nor which of them it was."""
    digest = _digest(given)
    return sum(hmac.compare_digest(digest, each) for each in digests) > 0
