"""What to write instead of a setting that is wrong."""

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

PREFIX = "HERENOW_"
"""Of the environment variables."""

TOML = "herenow.toml"
"""The file of settings, in the working directory."""

_EXAMPLES = {
    "origins": ["https://app.example"],
    "trusted_proxies": ["10.0.0.0/8"],
    "jwt_public_keys": ["/etc/herenow/login.pem"],
    "tenant_api_keys": {"acme": ["sha256:…"]},
}

_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}

_LENGTHS = {"min_length": "at least", "max_length": "at most"}

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "list": "a list",
    "dict": "a table",
}


def example(name: str) -> str:
    """Give a value of a setting that is a list or a table, in JSON."""
    return json.dumps(_EXAMPLES.get(name, ["…"]), ensure_ascii=False)


def say_wrong(error: Any, given: Iterable[str], fields: Mapping[str, FieldInfo]) -> str:
    """Say of one wrong setting what to write instead. No value of a text is told: it may be a secret.

    Args:
        error: as pydantic tells it.
        given: the names of those that a program gave; the others are from the environment or the file.
        fields: all settings there are.
    """
    name = str(error["loc"][0]) if error["loc"] else ""
    kind = error["type"]
    if kind == "extra_forbidden":
        meant = get_close_matches(name, fields, 1, 0.6)
        where = "" if name in given else f" ({Path(TOML).absolute()})"
        return f"there is no setting {name!r}{where}: " + (f"is {meant[0]!r} meant?" if meant else "take it out")
    if not name:
        return str(error["msg"]).removeprefix("Value error, ")
    context = error.get("ctx", {})
    bounds = [f"{word} {context[key]:g}" for key, word in _BOUNDS.items() if key in context]
    lengths = [f"{word} {context[key]} characters" for key, word in _LENGTHS.items() if key in context]
    expected = _KINDS.get(kind.partition("_")[0], "")
    means = fields[name].description or ""
    if bounds:
        clause = f"must be {bounds[0]}, not {error['input']}"
    elif lengths:
        clause = f"must have {lengths[0]}"
    elif kind.startswith(("list", "dict")):
        value = example(name)
        line = f"{name} = {value.replace(': ', ' = ')}"
        clause = f"must be {expected}: write {line} in {TOML}, or {PREFIX}{name.upper()}='{value}'"
    elif expected in ("a whole number", "a number", "true or false"):
        clause = f"must be {expected}, not {error['input']!r}"
    elif kind == "string_pattern_mismatch" and name == "root_path":
        clause = f"must begin with a slash and not end with one, as in /presence, not {error['input']!r}"
    elif kind == "string_pattern_mismatch":
        clause = "must be the name of one field, without dots and without a $ at its beginning"
    else:
        clause = f"is not right: {str(error['msg']).lower()}"
    return f"{name} {clause} ({means.rstrip('.')})"


def say_origin(text: str) -> str:
    """Say what to write in the place of what is no origin."""
    if "*" in text:
        return f"{text!r} has a * in it: write each origin out, or only * for all"
    scheme, separator, rest = text.strip().partition("://")
    host = re.match(r"[^/?#@\s]+", rest if separator else scheme)
    if host is None:
        return f"{text!r} must be a scheme, a host and perhaps a port, such as https://app.example"
    meant = f"{scheme.lower() if separator else 'https'}://{host[0].lower()}"
    return f"write {meant!r} instead of {text!r}: browsers send a scheme, a host and perhaps a port, and no more"
