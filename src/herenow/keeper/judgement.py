"""What the audit finds wrong in one row, and what it repairs: pure, without a clock and without I/O.

A user is a *ghost* whom the store shows online, or who looks so to a program that takes what is no boolean for one, and
who is not; *missing*, if it is the reverse. Where the two agree on that, the row is *wrong* if another of our fields

- differs from what the registry knows, and is written: its claim, `lastActive`, how the user is shown;
- holds what no store of ours would have written (``StoredUser.odd``), or a `lastActive` that is still to come;
- has a version that is older than the user's latest change, as after a save of the whole document by an application, or
  one that nobody gave out: the next change would be taken for an old one.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from herenow.model import Availability, Claim, StoredUser
from herenow.store.rows import CLOCK_SLACK_MS


class DriftKind(StrEnum):
    """How the store and the registry disagree of a user."""

    GHOST = "ghost"
    MISSING = "missing"
    WRONG = "wrong"


class Difference(msgspec.Struct, frozen=True):
    """One user of whom the store and the registry disagree: how, what the store has, and which of our fields it is."""

    user_id: str
    kind: DriftKind
    stored: StoredUser | None
    fields: tuple[str, ...] = ()


class Moment(msgspec.Struct, frozen=True):
    """When a row was looked at.

    Attributes:
        versions: those that the registry gave out since the round began: what has one of them is no evidence.
        now_ms: the wall clock.
    """

    versions: range
    now_ms: int


def judge(true: StoredUser | None, row: StoredUser | None, moment: Moment, *, creates_users: bool) -> Difference | None:
    """Compare what the store should say of one user with what it says.

    Args:
        true: as the registry has it; ``None`` if it knows nothing of the user.
        row: as the store has it; ``None`` if it does not have the user.
        moment: when that was.
        creates_users: whether the store would create a user whom it does not have.
    """
    if any(each is not None and each.version in moment.versions for each in (true, row)):
        return None
    if row is None:
        is_lost = true is not None and creates_users and (true.is_online or _asks(true.claim))
        kind = DriftKind.MISSING if true is not None and true.is_online else DriftKind.WRONG
        return Difference(true.user_id, kind, None) if is_lost and true is not None else None
    fields = tuple(dict.fromkeys((*row.odd, *_differences(true, row, moment))))
    if true is not None and true.is_online and not row.is_online:
        return Difference(row.user_id, DriftKind.MISSING, row, fields)
    if row.is_online or row.is_flag_odd:
        if true is None or not true.is_online:
            return Difference(row.user_id, DriftKind.GHOST, row, fields)
    return Difference(row.user_id, DriftKind.WRONG, row, fields) if fields else None


def _differences(true: StoredUser | None, row: StoredUser, moment: Moment) -> Iterable[str]:
    """Name what is not as it should be, by the names of ``StoredUser``."""
    if row.version >= moment.versions.stop or (true is not None and row.version < true.version):
        yield "version"
    if true is None:
        if row.last_active_ms is not None and row.last_active_ms > moment.now_ms + CLOCK_SLACK_MS:
            yield "last_active"
        if _asks(row.claim):
            yield "claim"
        return
    if true.availability is not row.availability:
        yield "availability"
    if true.last_active_ms is not None and true.last_active_ms != row.last_active_ms:
        yield "last_active"
    if true.claim != row.claim and (_asks(true.claim) or _asks(row.claim)):
        yield "claim"


def _asks(claim: Claim | None) -> bool:
    return claim is not None and (claim.availability is not None or claim.text is not None)


def plan(drifts: Iterable[Difference], seen: Mapping[str, DriftKind]) -> list[Difference]:
    """Choose what to repair: the drifts that the round before saw in the same way."""
    return [drift for drift in drifts if seen.get(drift.user_id) == drift.kind]


def to_repair(drift: Difference) -> StoredUser:
    """The row that is wrong; of a user whom the store does not have, the one that says nothing."""
    return drift.stored or StoredUser(drift.user_id, False, Availability.OFFLINE, None, None, 0)
