"""What an address is: of a page, of a network, and one that only its owner can answer at. Pure."""

import re
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit


def is_origin(text: str) -> bool:
    """Whether this is what a browser says of a page: a scheme, a host and maybe a port; or one of its two words."""
    return text in ("*", "null") or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@*]+", text) is not None


def is_network(text: str) -> bool:
    """Whether this is an address or a network, as a number."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_safe_url(url: str, *, http: bool = False) -> bool:
    """Whether what comes from an address is its owner's: over TLS, or from this machine; or over any ``http``."""
    try:
        address = urlsplit(url)
        host = address.hostname or ""
    except ValueError:
        return False
    return bool(host) and (address.scheme == "https" or (address.scheme == "http" and (http or is_loopback(host))))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        address = ip_address(host.partition("%")[0])  # an IPv6 address may carry its interface
    except ValueError:  # a name: 127.example.org begins like an address, and leads anywhere
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
