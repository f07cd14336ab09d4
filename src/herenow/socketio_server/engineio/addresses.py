"""Where a request comes from, behind proxies too, and how many sessions each address has. Pure.

This is the one place that decides: both transports, the HTTP API and whatever a web server is asked for know the same
address and the same scheme of a client. A web server's own rule for such headers is switched off, or set to the same.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case and values, as they came."""

_V6_PREFIX = 64
"""Bits of an IPv6 address that tell customers apart: each has at least all addresses behind them."""

_LONGEST = 100
"""Characters of an address that are looked at; what is longer is none."""

_FOR = re.compile(r"(?:^|[;,])\s*for\s*=\s*(\"[^\"]*\"|[^\s;,]*)", re.IGNORECASE)
"""Who is named in a ``Forwarded`` header (RFC 7239, section 4)."""


def parse_networks(networks: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read addresses and networks (``10.0.0.0/8``).

    Raises:
        ValueError: one is neither; the sentence names it.
    """
    return tuple(ip_network(network, strict=False) for network in networks)


class Proxies:
    """Those whose word about a client counts.

    Of ``X-Forwarded-For`` only what trusted proxies have added counts: it is read from its end, up to the first address
    that is not theirs. Whatever stands before that, the client may have made up. To ask again with the answer as the
    peer gives the same answer: it does no harm if it was asked before.

    Args:
        trusted: their addresses and networks.

    Raises:
        ValueError: one is neither.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = parse_networks(trusted)

    def client(self, peer: str, headers: Headers) -> str:
        """Return the address of the client: that of the peer, unless the peer is a proxy that is trusted."""
        forwarded = _values(headers, b"x-forwarded-for")
        return peer if forwarded is None else self._walk(peer, forwarded)[0]

    def is_secure(self, peer: str, headers: Headers) -> bool | None:
        """Whether the client speaks TLS; ``None`` if nobody who is trusted says so, and the socket's own word counts.

        ``X-Forwarded-Proto`` has a word of each proxy, or one of them all: that which the client's own proxy said
        counts, as far from the end as the client's address is.
        """
        headers = list(headers)
        words = _values(headers, b"x-forwarded-proto")
        if words is None or not self._is_trusted(peer):
            return None
        _, hops = self._walk(peer, _values(headers, b"x-forwarded-for") or "")
        said = words.split(",")
        word = said[-min(max(hops, 1), len(said))].strip().lower()
        return {"https": True, "wss": True, "http": False, "ws": False}.get(word)

    def is_here(self, peer: str | None, headers: Headers) -> bool:
        """Whether a request comes from this machine, and was not brought from elsewhere by a proxy on it.

        Whom the settings trust does not matter here: that a header is there is enough. Behind a tunnel or a proxy on
        this machine, all the world comes from 127.0.0.1.
        """
        headers = list(headers)
        if peer is not None and not _is_loopback(self.client(peer, headers)):
            return False
        named = [entry for entry in (_values(headers, b"x-forwarded-for") or "").split(",") if entry.strip()]
        named += [value for value in (_values(headers, b"x-real-ip"),) if value is not None]
        for element in (_values(headers, b"forwarded") or "").split(","):
            if element.strip():
                found = _FOR.search(element)
                named.append(found[1].strip('"') if found else "unknown")
        return all(map(_is_loopback, named))

    def _walk(self, peer: str, forwarded: str) -> tuple[str, int]:
        """The client, and how many entries from the end of the header it was found."""
        client, hops = peer, 0
        if not self._is_trusted(peer):
            return client, hops
        for entry in reversed(forwarded.split(",")):
            address = _parse(entry.strip()[:_LONGEST])
            if address is None:
                break  # what a proxy of ours passes on is an address: here its word ends
            client, hops = str(address), hops + 1
            if not any(address in network for network in self._trusted):
                break
        return client, hops

    def _is_trusted(self, address: str) -> bool:
        parsed = _parse(address[:_LONGEST])
        return parsed is not None and any(parsed in network for network in self._trusted)


class BehindProxies:
    """Lets an ASGI application see the client's address and scheme, as both Socket.IO transports do.

    Args:
        app: the application.
        proxies: whose word counts.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        client = scope.get("client")
        if client:  # there is none in a lifespan, nor behind a Unix socket
            peer, headers = client[0], scope["headers"]
            scope = {**scope, "client": (self._proxies.client(peer, headers), client[1])}
            is_secure = self._proxies.is_secure(peer, headers)
            if is_secure is not None:
                scope["scheme"] = ("ws" if scope["type"] == "websocket" else "http") + ("s" if is_secure else "")
        await self._app(scope, receive, send)


@lru_cache(maxsize=4096)  # asked when a session opens and again when it ends; to parse costs a thirtieth of a connect
def customer_of(address: str) -> str | None:
    """Return what sessions are counted by: the address, of IPv6 its network; ``None`` for this machine's own.

    A proxy on this machine that says nothing of its clients would else be refused for all of them.
    """
    parsed = _parse(address[:_LONGEST])
    if parsed is None:
        return address
    if parsed.is_loopback:
        return None
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, _V6_PREFIX), strict=False))
    return str(parsed)


def _values(headers: Headers, name: bytes) -> str | None:
    """All values of a header as one; ``None`` if it is not there."""
    found = [value for each, value in headers if each == name]
    return b",".join(found).decode("latin-1") if found else None


def _is_loopback(address: str) -> bool:
    parsed = _parse(address.strip()[:_LONGEST])
    return parsed is not None and parsed.is_loopback


@lru_cache(maxsize=4096)
def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """Read ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
