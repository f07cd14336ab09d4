"""The address of a database, before its driver is loaded: which kind it is, and how it may be shown."""

import re

MONGO_SCHEMES = ("mongodb://", "mongodb+srv://")


def is_mongo(url: str) -> bool:
    """Whether an address is of a MongoDB database."""
    return url.startswith(MONGO_SCHEMES)


def without_secrets(url: str) -> str:
    """Give an address as it may be shown: one of a server without user, password and options, which may be secret."""
    return re.sub("//.*@", "//", url).partition("?")[0] if is_mongo(url) else url
