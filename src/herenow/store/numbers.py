"""Ids that are numbers: a database takes ``007``, ``+7`` and ``7e0`` for one, and so there is one way to write each.

Exact, however long: as a floating-point number, 9007199254740993 would be the user before.
"""

import re
from decimal import Decimal, InvalidOperation

LOWEST, HIGHEST = -(2**63), 2**63 - 1
"""Whole numbers that a database holds as such."""

_MOST_DIGITS = 19

_NUMBER = re.compile(r" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? *")
"""As SQLite reads one out of a text: in ASCII, with spaces around it."""


def is_number(text: str) -> bool:
    """Whether a text is a number, however it is written."""
    return _NUMBER.fullmatch(text) is not None


def whole_number(text: str) -> int | None:
    """Read a whole number of 64 bits, however it is written; ``None`` if it is none."""
    if not is_number(text):
        return None
    try:
        value = Decimal(text.strip())
    except InvalidOperation:  # an exponent that no number has
        return None
    if value.is_zero():
        return 0
    if value.adjusted() >= _MOST_DIGITS or value != value.to_integral_value():
        return None
    number = int(value)
    return number if LOWEST <= number <= HIGHEST else None
