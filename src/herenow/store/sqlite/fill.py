"""What other programs left in the users table that no store of ours would have written: found, and mended by ``init``.

What ``isOnline`` is, the table itself decides, by comparing: a column of text holds '1' for true. A time is text that
begins with its day; numbers are none, for they would stand before all times, and their users be stale at once.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from herenow.store.base import PAGE_SIZE
from herenow.store.rows import CLOCK_SLACK_MS, read_time
from herenow.store.sqlite.schema import column_names, users
from herenow.times import to_iso, unix_ms

_DAY = "[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]*"
_TIME = "[T ][0-2][0-9]:*"
_OTHER = "*[^-0-9T:.+Z ]*"
_OURS = "[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z"
_EPOCH_DAY = 2440587.5
"""1970-01-01, as SQLite counts days: a time before it is none of a user's, but some program's zero."""

_FALSE: sa.ColumnElement[int] = sa.literal_column("0")
_TRUE: sa.ColumnElement[int] = sa.literal_column("1")

is_no_boolean = sa.or_(
    users.c.isOnline > _TRUE,
    users.c.isOnline < _FALSE,
    sa.and_(users.c.isOnline > _FALSE, users.c.isOnline < _TRUE),
)
"""``isOnline`` is something, and neither; in the form for which SQLite has a use for its index."""

_text = users.c.lastActive
_day, _rest = sa.func.substr(_text, 1, 10), sa.func.substr(_text, 11)
is_as_ours = sa.and_(
    sa.func.typeof(_text) == "text",
    _text.op("GLOB", is_comparison=True)(sa.literal(_OURS)),
    _text >= "1970",
    sa.func.substr(_text, 6, 2).between("01", "12"),
    sa.func.substr(_text, 9, 2).between("01", sa.case((sa.func.substr(_text, 6, 2) == "02", "28"), else_="30")),
    sa.func.substr(_text, 12, 2) < "24",
)
"""As we write it, on a day that its month has in every year: most need no look at the calendar, which takes longer."""

is_any_time = sa.and_(
    sa.func.typeof(_text) == "text",
    _text.op("GLOB", is_comparison=True)(sa.literal(_DAY)),  # SQLite also calls a bare number a date
    sa.func.julianday(_text) >= _EPOCH_DAY,
    # What SQLite takes for a time, and Python does not: the 30th of February, 24 o'clock, blanks, a small z.
    sa.func.date(_day, "+0 days") == _day,
    sa.not_(_text.op("GLOB", is_comparison=True)(sa.literal(_OTHER))),
    sa.or_(
        _rest == "",
        sa.and_(
            _rest.op("GLOB", is_comparison=True)(sa.literal(_TIME)),
            sa.func.substr(_text, 12, 2) < "24",
            sa.func.instr(sa.func.substr(_text, 12), " ") == 0,
        ),
    ),
)
is_time = sa.or_(is_as_ours, is_any_time)
"""``lastActive`` is a time that can be read and that sorts among ours, as an application may have written it too.

Whatever it lets pass, ``read_time`` reads: else a row would be found odd for ever, and never mended.
"""


class Unfilled(msgspec.Struct, frozen=True):
    """How many users have no ``isOnline``, an odd one, and a `lastActive` that is no time of the past."""

    missing: int = 0
    odd: int = 0
    no_times: int = 0

    @property
    def steps(self) -> list[str]:
        """What is to be done about it, a sentence each."""
        steps = (
            (self.missing, "isOnline to false where it is null"),
            (self.odd, "isOnline to false where it is neither true nor false"),
            (self.no_times, "lastActive to the time that it means, or null, where it is no time of the past"),
        )
        return [f"set {what}: {count} users" for count, what in steps if count]


def count_unfilled(connection: sa.Connection) -> Unfilled:
    """Count what an application left in its own table, or somebody in ours."""
    inspector = sa.inspect(connection)
    columns = column_names(inspector) if inspector.has_table(users.name) else set()

    def count(column: str, condition: sa.ColumnElement[bool]) -> int:
        if column.lower() not in columns:
            return 0
        return connection.execute(sa.select(sa.func.count()).select_from(users).where(condition)).scalar_one()

    return Unfilled(
        missing=count("isOnline", users.c.isOnline.is_(None)),
        odd=count("isOnline", is_no_boolean),
        no_times=count("lastActive", _is_no_time(_latest())),
    )


def fill(connection: sa.Connection) -> int:
    """Put one batch of users right; returns how many it were, 0 at the end."""
    return _fill_flags(connection) or _fill_times(connection)


def _fill_flags(connection: sa.Connection) -> int:
    wrong = sa.select(users.c.id).where(sa.or_(users.c.isOnline.is_(None), is_no_boolean)).limit(PAGE_SIZE)
    return connection.execute(users.update().where(users.c.id.in_(wrong)).values(isOnline=sa.false())).rowcount


def _fill_times(connection: sa.Connection) -> int:
    found = connection.execute(
        sa.select(users.c.id, users.c.lastActive).where(_is_no_time(_latest())).limit(PAGE_SIZE)
    ).all()
    if not found:
        return 0
    latest_ms = unix_ms()
    meant = [(user_id, _to_text(value, latest_ms)) for user_id, value in found]
    batch = sa.func.json_each(sa.bindparam("rows", type_=sa.Text)).table_valued("value", name="batch")
    parts = [sa.func.json_extract(batch.c.value, sa.literal_column(f"'$[{place}]'")) for place in (0, 1)]
    rows = sa.select(parts[0].label("id"), parts[1].label("lastActive")).subquery("meant")
    # Or ignore: an application's own table may want a time where there is none.
    change = users.update().prefix_with("OR IGNORE").where(users.c.id == rows.c.id).values(lastActive=rows.c.lastActive)
    return connection.execute(
        change, {"rows": msgspec.json.encode(meant).decode()}, execution_options={"preserve_rowcount": True}
    ).rowcount


def _to_text(value: Any, latest_ms: int) -> str | None:
    time_ms = read_time(value)
    return None if time_ms is None else to_iso(min(time_ms, latest_ms))


def _is_no_time(latest: str) -> sa.ColumnElement[bool]:
    late = users.c.lastActive > latest
    return sa.and_(users.c.lastActive.is_not(None), sa.or_(sa.not_(is_time), late))


def _latest() -> str:
    return to_iso(unix_ms() + CLOCK_SLACK_MS)
