"""Where a request comes from, behind proxies too, and how many sessions each address has. Pure."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_V6_PREFIX = 64
"""Bits of an IPv6 address that tell customers apart: each has at least all addresses behind them."""

_LONGEST = 100
"""Characters of an address that are looked at; what is longer is none."""


def parse_networks(networks: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read addresses and networks (``10.0.0.0/8``).

    Raises:
        ValueError: one is neither; the sentence names it.
    """
    return tuple(ip_network(network, strict=False) for network in networks)


def client_address(peer: str, forwarded: str | None, trusted: tuple[IPv4Network | IPv6Network, ...]) -> str:
    """Return the address of the client: that of the peer, unless the peer is a proxy that is trusted.

    Of ``X-Forwarded-For`` only what trusted proxies have added counts: it is read from its end, up to the first address
    that is not theirs. Whatever stands before that, the client may have made up.

    Args:
        peer: the other end of the socket.
        forwarded: the header's value, if there is one; several are joined by commas.
        trusted: the proxies.
    """
    client = peer
    if forwarded is None or not _is_among(peer, trusted):
        return client
    for entry in reversed(forwarded.split(",")):
        address = _parse(entry.strip()[:_LONGEST])
        if address is None:
            break  # what a proxy of ours passes on is an address: here its word ends
        client = str(address)
        if not any(address in network for network in trusted):
            break
    return client


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


def _is_among(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    parsed = _parse(address[:_LONGEST])
    return parsed is not None and any(parsed in network for network in networks)


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
