"""The address of a MongoDB database, with all the options that MongoDB knows, and how a person names it."""

import re
import warnings
from urllib.parse import parse_qsl

import msgspec
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from herenow.errors import StoreUrlInvalid

SCHEMES = ("mongodb://", "mongodb+srv://")


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
    scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise StoreUrlInvalid(name, "it is not an address like mongodb://host/database")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an option that pymongo does not know is a slip of the pen
            parsed = parse_uri("mongodb://" + url.removeprefix(scheme), warn=True)
    except (InvalidURI, ConfigurationError, ValueError, UserWarning) as error:
        raise StoreUrlInvalid(name, str(error).splitlines()[0].rstrip(".")) from error
    if not parsed["database"]:
        raise StoreUrlInvalid(name, "it names no database: write it behind the host, as in mongodb://host/database")
    options = {option.lower(): value for option, value in parse_qsl(url.partition("?")[2])}
    if options.get("w") == "0":
        raise StoreUrlInvalid(name, "w=0 would not tell whether anything was written")
    return MongoUrl(url=url, database=parsed["database"], name=name, options=frozenset(options))


def without_secrets(url: str) -> str:
    """Give an address as it may be shown: without user and password, and without options, which may hold secrets."""
    return re.sub("//.*@", "//", url).partition("?")[0]
