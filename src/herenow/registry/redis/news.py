"""What the log says of one user after a commit: bytes that the script passes on, with the versions beside them."""

from collections.abc import Iterable

import msgspec
from msgspec.structs import astuple

from herenow.model import Availability, Cause, Change, Claim, Claimed, Evicted, StoredUser
from herenow.registry.rules import Shift


class News(msgspec.Struct, frozen=True):
    """The news of one user: ``changes`` oldest first, the row for the store if it must know, and who was evicted."""

    changes: tuple[Change, ...]
    row: StoredUser | None
    evicted: tuple[Evicted, ...]


class _Said(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The steps are what others see, and the cause; of the row and of who is evicted there are the fields."""

    user_id: str
    steps: list[tuple[tuple[Availability, str | None, int | None], int | None, Cause]]
    versions: int
    row: tuple[Availability, int | None, tuple[Claimed | None, str | None, int | None] | None] | None
    evicted: list[tuple[str, str, str, int, int, bool, str | None, str | None, Cause]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Said)


def write_news(
    user_id: str, steps: Iterable[Shift], versions: int, row: StoredUser | None, evicted: Iterable[Evicted]
) -> bytes:
    """Write the news of a user who is given ``versions`` versions: the first ones to the steps, the last to the row."""
    claim = None if row is None or row.claim is None else astuple(row.claim)
    said = (
        user_id,
        [(*astuple(step.shown), step.cause) for step in steps],
        versions,
        None if row is None else (row.availability, row.last_active_ms, claim),
        [astuple(each) for each in evicted],
    )
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
    return News(changes, row, tuple(Evicted(*fields) for fields in news.evicted))


def _is_online(availability: Availability) -> bool:
    return availability is not Availability.OFFLINE
