"""How Redis refuses: one table of what it says, and what is to be done about each.

The client library takes the first word of some answers away and makes a class of it; Redis 6 writes the answer to what
a script has called behind a sentence of its own. Here each has the word that Redis meant.
"""

import re
from typing import Final

from redis import exceptions
from redis.exceptions import ResponseError

LEADS_ELSEWHERE: Final = frozenset(("READONLY", "UNBLOCKED", "MASTERDOWN", "MOVED", "ASK"))
"""The connection is to a Redis that is no master, or not that of our keys, or not any more: a new one finds it."""

NOT_NOW: Final = frozenset(
    ("LOADING", "MISCONF", "BUSY", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN", "NOSCRIPT", "MASTERDOWN")
)
"""The same may go well in a moment, over the same connection."""

FULL: Final = "OOM"
"""Its memory is full: it takes nothing new."""

_WORD_OF: Final = {
    exceptions.ReadOnlyError: "READONLY",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.MovedError: "MOVED",
    exceptions.AskError: "ASK",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.TryAgainError: "TRYAGAIN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.NoScriptError: "NOSCRIPT",
    exceptions.OutOfMemoryError: FULL,
}

_WORD: Final = re.compile(r"(?:Error running script .*?: -)?([A-Z]+)(?: |$)")


def word_of(error: BaseException) -> str:
    """Return the word with which Redis refused, such as ``READONLY``; empty: it did not, or says no such word."""
    if (word := _WORD_OF.get(type(error))) is not None:
        return word
    found = _WORD.match(str(error)) if isinstance(error, ResponseError) else None
    return "" if found is None else found[1]


def is_passing(error: Exception) -> bool:
    """Say whether it may go well if it is tried again, with nothing changed."""
    word = word_of(error)
    return not isinstance(error, ResponseError) or word in NOT_NOW or word in LEADS_ELSEWHERE


def leads_elsewhere(error: Exception) -> bool:
    """Say whether the connection is to blame, and every other one that was made when it was."""
    return word_of(error) in LEADS_ELSEWHERE
