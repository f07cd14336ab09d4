"""What the log says of one user after a commit: bytes that the script passes on, with the versions beside them."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import astuple

from herenow.model import Availability, Cause, Change, Claim, Claimed, Evicted, StoredUser, UserPresence
from herenow.registry.rules import Shift


class News(msgspec.Struct, frozen=True):
    """The news of one user: ``changes`` oldest first, the row for the store if it must know, and who was evicted.

    ``view`` is how the user is shown now, where that is so without a change: as the store has had it all the while.
    """

    changes: tuple[Change, ...]
    row: StoredUser | None
    evicted: tuple[Evicted, ...]
    view: UserPresence | None


class _Said(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The steps are what others see, and the cause; of the row, of who is evicted and of the view there are the fields.

    What comes after ``evicted`` is passed over by a herenow that does not know it yet.
    """

    user_id: str
    steps: list[tuple[tuple[Availability, str | None, int | None], int | None, Cause]]
    versions: int
    row: tuple[Availability, int | None, tuple[Claimed | None, str | None, int | None] | None] | None
    evicted: list[tuple[str, str, str, int, int, bool, str | None, str | None, Cause]]
    view: tuple[Availability, str | None, int | None, int | None, int] | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Said)


def write_news(
    user_id: str,
    steps: Iterable[Shift],
    versions: int,
    row: StoredUser | None,
    evicted: Iterable[Evicted],
    view: UserPresence | None,
) -> bytes:
    """Write the news of a user who is given ``versions`` versions: the first ones to the steps, the last to the row."""
    claim = None if row is None or row.claim is None else astuple(row.claim)
    said: tuple[Any, ...] = (
        user_id,
        [(*astuple(step.shown), step.cause) for step in steps],
        versions,
        None if row is None else (row.availability, row.last_active_ms, claim),
        [astuple(each) for each in evicted],
    )
    if view is not None:
        said += ((view.availability, view.status_text, view.status_until_ms, view.last_active_ms, view.version),)
    return _encoder.encode(said)


def read_news(said: bytes, first: int) -> News:
    """Read what :func:`write_news` wrote.

    Args:
        said: the bytes.
        first: the first of the versions that the commit gave out for it.

    Raises:
        msgspec.DecodeError: it is nothing of the kind.
    """
    news = _decoder.decode(said)
    changes = tuple(
        Change(news.user_id, _is_online(seen), seen, last_active_ms, text, until_ms, version, cause)
        for version, ((seen, text, until_ms), last_active_ms, cause) in enumerate(news.steps, first)
    )
    row = None
    if news.row is not None:
        seen, last_active_ms, fields = news.row
        claim = None if fields is None else Claim(*fields)
        last = first + news.versions - 1
        row = StoredUser(news.user_id, _is_online(seen), seen, last_active_ms, claim, last)
    view = None
    if news.view is not None:
        seen, text, until_ms, last_active_ms, version = news.view
        view = UserPresence(news.user_id, _is_online(seen), seen, last_active_ms, text, until_ms, version)
    return News(changes, row, tuple(Evicted(*fields) for fields in news.evicted), view)


def _is_online(availability: Availability) -> bool:
    return availability is not Availability.OFFLINE
