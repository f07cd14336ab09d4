"""The address of a database, before its driver is loaded: which kind it is, and how it may be shown."""

import re
from pathlib import Path

SQLITE = "sqlite:///"
MONGO_SCHEMES = ("mongodb://", "mongodb+srv://")


def is_mongo(url: str) -> bool:
    """Whether an address is of a MongoDB database."""
    return url.startswith(MONGO_SCHEMES)


def without_secrets(url: str) -> str:
    """Give an address as it may be shown: one of a server without user, password and options, which may be secret.

    Also where it is no address: whoever mistypes one has written their password all the same.
    """
    if url.startswith(SQLITE):
        return url
    # As far as the last @: a password may hold anything, escaped or not.
    return re.sub(r"^([A-Za-z][\w+.-]*:/+)?.*@", r"\1", url, flags=re.DOTALL).partition("?")[0]


def hide_passwords(text: str) -> str:
    """Take users and passwords out of all addresses in a text."""
    return re.sub(r"(?<=://)[^\s/]*@", "", text)


def identity_of(url: str, collection: str) -> str:
    """Give the one form that the address of a database has, however it is written; it holds no secrets.

    Args:
        url: the address; of a SQLite file, a path that is not absolute begins in the working directory.
        collection: where a server's users are: each collection has a server of its own.
    """
    if url.startswith(SQLITE):
        return SQLITE + str(Path(url.removeprefix(SQLITE)).resolve())
    shown = without_secrets(url)
    scheme, separator, rest = shown.partition("://")
    if not separator or not is_mongo(url):
        return shown
    hosts, _, name = rest.partition("/")
    port = ":27017" if scheme == "mongodb" else ""
    full = sorted(host if ":" in host.rpartition("]")[2] else host + port for host in hosts.lower().split(","))
    return f"{scheme}://{','.join(full)}/{name} {collection}"
