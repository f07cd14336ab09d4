"""Ids that nobody can guess."""

import os
from base64 import urlsafe_b64encode
from typing import Final

SIZE: Final = 15
"""Random bytes of an id: 120 bits, and no padding in base64."""

_AT_ONCE: Final = 256
"""So many ids are made of one request to the system, which costs more than all the rest of an id."""

_pieces: list[bytes] = []


def new_id() -> str:
    """Return 20 letters, digits, dashes and underscores from the system's source of secrets; in any thread."""
    while True:
        try:
            piece = _pieces.pop()  # one step, so that no two threads get the same
        except IndexError:
            random = os.urandom(SIZE * _AT_ONCE)
            _pieces.extend(random[start : start + SIZE] for start in range(0, len(random), SIZE))
        else:
            return urlsafe_b64encode(piece).decode()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pieces.clear)  # or parent and child would give out the same ids
