"""The address of a MongoDB database, with all the options that MongoDB knows, and how a person names it."""

import re
import warnings
from urllib.parse import parse_qsl

import msgspec
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from herenow.errors import StoreUrlInvalid
from herenow.store.address import MONGO_SCHEMES, without_secrets

_ESCAPE = "in the user and the password, write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for # and %25 for %"

_FILES = ("tlscafile", "tlscertificatekeyfile", "tlscrlfile")
"""The options that name a file."""


class MongoUrl(msgspec.Struct, frozen=True):
    """A checked address.

    Attributes:
        url: as it was given, with the password.
        database: the one that its path names.
        name: it for people: without user, password and options.
        options: the names of the options that it sets, in lower case.
    """

    url: str
    database: str
    name: str
    options: frozenset[str]


def parse_url(url: str) -> MongoUrl:
    """Check an address; ``mongodb+srv://`` is not looked up yet.

    Raises:
        StoreUrlInvalid: it is none, an option is wrong, or it names no database.
    """
    name = without_secrets(url)
    scheme = next((scheme for scheme in MONGO_SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise StoreUrlInvalid(name, "it is not an address like mongodb://host/database")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an option that pymongo does not know is a slip of the pen
            parsed = parse_uri("mongodb://" + url.removeprefix(scheme), warn=True)
    except OSError as error:  # the driver does not always say which file, nor what is wrong with it
        raise StoreUrlInvalid(name, _unreadable_file(url) or str(error).splitlines()[0].rstrip(".")) from error
    except (InvalidURI, ConfigurationError, ValueError, UserWarning) as error:
        if "@" in url and not _is_escaped(url):
            raise StoreUrlInvalid(name, _ESCAPE) from error
        reason = str(error).splitlines()[0].rstrip(".")
        if reason.startswith("Empty host"):
            reason = "it names no host: write one behind //, as in mongodb://host/database"
        raise StoreUrlInvalid(name, reason) from error
    if not parsed["database"]:
        raise StoreUrlInvalid(name, "it names no database: write it behind the host, as in mongodb://host/database")
    options = _options(url)
    if options.get("w") == "0":
        raise StoreUrlInvalid(name, "w=0 would not tell whether anything was written")
    return MongoUrl(url=url, database=parsed["database"], name=name, options=frozenset(options))


def with_database(url: str, database: str) -> str:
    """Name another database of the same server. The user stays one of the database that the address named."""
    scheme, rest = url.split("://", 1)
    hosts, _, path = rest.partition("/")
    name, _, query = path.partition("?")
    options = _options(url)
    # A look-up (+srv) may bring its own authSource; a mechanism without passwords has one of its own.
    needs_source = "@" in hosts and not scheme.endswith("+srv") and not options.keys() & {"authsource", "authmechanism"}
    if needs_source:
        query += ("&" if query else "") + f"authSource={name}"
    return f"{scheme}://{hosts}/{database}" + (f"?{query}" if query else "")


def _is_escaped(url: str) -> bool:
    """Whether what stands before the last @ is a user and a password as an address may hold them."""
    secrets = url.partition("://")[2].rpartition("@")[0]
    return re.fullmatch(r"([^@:/?#%]|%[0-9A-Fa-f]{2})+(:([^@:/?#%]|%[0-9A-Fa-f]{2})*)?", secrets) is not None


def _unreadable_file(url: str) -> str | None:
    """Say which of the files that an address names cannot be read, and why."""
    for option, path in _options(url).items():
        if option in _FILES:
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                return f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
    return None


def _options(url: str) -> dict[str, str]:
    return {option.lower(): value for option, value in parse_qsl(url.partition("?")[2])}
