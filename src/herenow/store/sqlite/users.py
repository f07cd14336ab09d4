"""The users of the SQL store: the inside of each transaction, as plain functions of a connection.

A batch travels as one JSON parameter of one statement. With a statement a row (``executemany``), sqlite3 gives up the
interpreter lock and takes it back for each row, and next to a busy event loop every taking back can last the
interpreter's switch interval, 5 ms: measured, 450 rows a second instead of 10,000.
"""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from herenow.model import Availability, StoredUser
from herenow.store.base import PAGE_SIZE, Applied, Counts, RowPage
from herenow.store.rows import VERSION_UNBELIEVABLE, UnstorableRow, can_be_id
from herenow.store.sqlite.errors import is_of_row
from herenow.store.sqlite.fill import is_no_boolean, is_time
from herenow.store.sqlite.rows import Columns, Raw, from_columns, to_columns, to_cursor
from herenow.store.sqlite.schema import users

Active = tuple[str | None, str | None]
"""When a user was last active: before the first time, or never, or after the second, if there is one. No first:
whenever."""

_batch = sa.func.json_each(sa.bindparam("rows", type_=sa.Text)).table_valued("value", name="batch")
_rows = sa.select(
    *(
        sa.func.json_extract(_batch.c.value, sa.literal_column(f"'$[{position}]'"), type_=column.type).label(
            column.name
        )
        for position, column in enumerate(users.c)
    )
).where(sa.true())  # SQLite's grammar: without a WHERE, "ON CONFLICT" would be read as the ON of a join
_value_names = [column.name for column in users.c if not column.primary_key]

# As the row has it; 0 where another program wrote what cannot be a version, so that any row of ours is newer.
_version = sa.case(
    (
        sa.and_(
            sa.func.typeof(users.c.presenceVersion) == "integer",
            users.c.presenceVersion.between(sa.literal_column("0"), sa.literal_column(str(VERSION_UNBELIEVABLE - 1))),
        ),
        users.c.presenceVersion,
    ),
    else_=0,
)


def _values(row: ReadOnlyColumnCollection[str, Any]) -> dict[str, sa.ColumnElement[Any]]:
    """What a row sets. One that does not know when its user was last active leaves the time that is stored."""
    last_active = sa.func.coalesce(row.lastActive, sa.case((is_time, users.c.lastActive)))
    return {**{name: row[name] for name in _value_names}, users.c.lastActive.name: last_active}


_insert = insert(users).from_select([column.name for column in users.c], _rows)
_upsert = _insert.on_conflict_do_update(
    index_elements=[users.c.id],
    set_=_values(_insert.excluded),
    where=_insert.excluded.presenceVersion > _version,
)

# For a table that is not ours an upsert would not do: SQLite checks the application's NOT NULL columns before it looks
# for the conflict.
_newer = _rows.subquery("newer")
_update = users.update().where(users.c.id == _newer.c.id, _version < _newer.c.presenceVersion).values(_values(_newer.c))

_ENOUGH = 16
"""Rows refused one by one, with none written, after which a batch is not looked through any further."""

_ids = sa.select(sa.func.json_each(sa.bindparam("ids", type_=sa.Text)).table_valued("value").c.value)
_is_wanted = users.c.id.in_(_ids)
_is_online = users.c.isOnline == sa.true()
# By comparing, as the index does: SQLite holds any value in any column, and the column may be of text.
_flag = sa.case(
    (_is_online, 1), (sa.or_(users.c.isOnline == sa.false(), users.c.isOnline.is_(None)), 0), else_=sa.null()
)
_columns: list[sa.ColumnElement[Any]] = [_flag.label("isOnline") if c is users.c.isOnline else c for c in users.c]
_count = sa.select(sa.func.count()).select_from(users)


def apply(connection: sa.Connection, rows: Sequence[StoredUser], *, create: bool) -> Applied:
    """Write a batch, each row if it is newer than what is there; create the users who are missing, or report them."""
    refused: dict[str, str] = {}
    newest: dict[str, Columns] = {}
    for row in sorted(rows, key=lambda row: row.version):
        try:
            newest[row.user_id] = to_columns(row)
        except UnstorableRow as error:
            refused[row.user_id] = str(error)
    batch = list(newest.values())
    halving = _Halving(_upsert if create else _update, "rows", enough=_ENOUGH)
    if batch:
        halving.write(connection, batch)
    written = halving.written
    refused.update(halving.refused)
    all_are_there = create or written == len(batch)
    unknown = () if all_are_there else find_unknown(connection, [user for user in newest if user not in refused])
    skipped = len(rows) - written - len(unknown) - len(refused)
    return Applied(written=written, skipped=skipped, unknown=unknown, refused=refused)


class _Halving:
    """Writes a batch in one statement; where a row is refused, it is halved until that row stands alone.

    SQLite undoes a failed statement by itself and leaves the transaction as it was.

    Args:
        statement: what writes.
        parameter: of it, that is given the rows, or the ids.
        enough: so many refusals, with nothing written, tell enough: the rest counts as refused too. To halve all of a
            thousand rows costs half a second of the processor.
    """

    def __init__(self, statement: sa.Executable, parameter: str, *, enough: int | None = None) -> None:
        self._statement = statement
        self._parameter = parameter
        self._enough = enough
        self.written = 0
        self.refused: dict[str, str] = {}

    def write(self, connection: sa.Connection, batch: Sequence[Columns] | Sequence[str]) -> None:
        """Write what can be."""
        if self._enough is not None and not self.written and len(self.refused) >= self._enough:
            reason = next(reversed(self.refused.values()))
            self.refused.update({_id_of(row): reason for row in batch})
            return
        try:
            self.written += _change(connection, self._statement, {self._parameter: _to_json(batch)})
            return
        except sa.exc.DBAPIError as error:
            if not is_of_row(error):
                raise
            if len(batch) == 1:
                self.refused[_id_of(batch[0])] = str(error.orig)
                return
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            self.write(connection, part)


def _id_of(row: Columns | str) -> str:
    return row if isinstance(row, str) else row[0]


def find_unknown(connection: sa.Connection, user_ids: Collection[str]) -> tuple[str, ...]:
    """Say whom of the users the table does not have, in their order."""
    possible = [user_id for user_id in user_ids if can_be_id(user_id)]
    found = connection.scalars(sa.select(users.c.id).where(_is_wanted), {"ids": _to_json(possible)})
    known = set(map(str, found))
    return tuple(user_id for user_id in user_ids if user_id not in known)


def read(connection: sa.Connection, user_ids: Collection[str]) -> dict[str, StoredUser]:
    """Read users by id."""
    possible = [user_id for user_id in user_ids if can_be_id(user_id)]
    found = connection.execute(sa.select(*_columns).where(_is_wanted), {"ids": _to_json(possible)})
    return {row.user_id: row for row in map(from_columns, found)}


def read_online_page(connection: sa.Connection, *, after: list[Raw] | None, active: Active, limit: int) -> RowPage:
    """Read a page of those online, or of those of them who were last active as is said."""
    # one row more than the page, to know whether another follows
    found = _walk_online(connection, _columns, after=after, active=active, limit=limit + 1)
    cursor = to_cursor([found[limit - 1].lastActive, found[limit - 1].id]) if len(found) > limit else None
    return RowPage(users=tuple(map(from_columns, found[:limit])), cursor=cursor)


def read_online_places(
    connection: sa.Connection, *, after: list[Raw] | None, active: Active, limit: int
) -> list[list[Raw]]:
    """Read only where those online stand in the order, as ``[lastActive, id]``; from the index alone."""
    found = _walk_online(connection, [users.c.lastActive, users.c.id], after=after, active=active, limit=limit)
    return [list(row) for row in found]


def read_no_booleans(connection: sa.Connection, *, after: Raw, active: Active, limit: int) -> list[Raw]:
    """Read the ids of users who are neither online nor offline, last active as is said, behind one of them."""
    user_id = sa.literal_column("+users.id", users.c.id.type)  # the plus: these few are found by isOnline, and sorted
    wanted = sa.select(user_id).select_from(users).where(is_no_boolean, *_was_active(active)).order_by(user_id)
    return list(connection.scalars((wanted if after is None else wanted.where(user_id > after)).limit(limit)))


def read_no_times(connection: sa.Connection, *, late: str, limit: int) -> list[Raw]:
    """Read the ids of who is offline and was last active after a moment, before 1970 or at what is no time.

    So many of each. In the index they stand before and behind the times that can be: numbers before all texts, what is
    binary behind them. A text among the times that is none, such as 2026-13-40, is not seen here.
    """
    found: list[Raw] = []
    for flag in (users.c.isOnline == sa.false(), users.c.isOnline.is_(None)):
        for is_outside in (users.c.lastActive > late, users.c.lastActive < "1970"):
            found += connection.scalars(sa.select(users.c.id).where(flag, is_outside).limit(limit))
    return found


def _walk_online(
    connection: sa.Connection,
    columns: Sequence[sa.ColumnElement[Any]],
    *,
    after: list[Raw] | None,
    active: Active,
    limit: int,
) -> list[sa.Row[Any]]:
    """Read up to ``limit`` of those online after a place, most recently active first and those never active last.

    There is a statement for each: who was active too late, early enough and never. NULL compares with nothing, and an
    OR would leave the index.
    """
    before, late = active
    online = sa.select(*columns).where(_is_online)
    seen = online.where(users.c.lastActive.is_not(None)).order_by(users.c.lastActive.desc(), users.c.id.desc())
    parts = [seen if before is None else seen.where(users.c.lastActive < before)]
    last_active, user_id = after or (None, None)
    if before is not None and late is not None and (not after or _is_after(last_active, late)):
        parts.insert(0, seen.where(users.c.lastActive > late))
    if last_active is not None:
        # a comparison of rows, not "a < x OR (a = x AND b < y)": one step in the index, however many times are equal
        place = sa.tuple_(users.c.lastActive, users.c.id) < sa.tuple_(last_active, user_id)
        parts = [part.where(place) for part in parts]
    never = online.where(users.c.lastActive.is_(None)).order_by(users.c.id.desc())
    parts = [never.where(users.c.id < user_id)] if after and last_active is None else [*parts, never]
    found: list[sa.Row[Any]] = []
    for part in parts:
        if len(found) < limit:
            found += connection.execute(part.limit(limit - len(found)))
    return found


def _is_after(value: Raw, late: str) -> bool:
    """Say whether SQLite puts a value behind a text."""
    return isinstance(value, str) and value > late


def read_claimed_page(connection: sa.Connection, *, after: list[Raw] | None, limit: int) -> RowPage:
    """Read a page of the users who have a claim, by id."""
    claimed = sa.select(*_columns).where(users.c.presenceClaim.is_not(None)).order_by(users.c.id)
    if after:
        claimed = claimed.where(users.c.id > after[0])
    found = connection.execute(claimed.limit(limit + 1)).all()
    cursor = to_cursor([found[limit - 1].id]) if len(found) > limit else None
    return RowPage(users=tuple(map(from_columns, found[:limit])), cursor=cursor)


def sift(connection: sa.Connection, *, after: list[Raw] | None, limit: int, version: int, late: str) -> RowPage:
    """Look at the next so many users, by id, and read those who are suspicious."""
    behind = [users.c.id > after[0]] if after else []
    last = connection.scalars(
        sa.select(users.c.id).where(*behind).order_by(users.c.id).offset(limit - 1).limit(1)
    ).first()
    within = behind if last is None else [*behind, users.c.id <= last]
    wanted = sa.select(*_columns).where(*within, _is_suspicious(version, late)).order_by(users.c.id)
    found = connection.execute(wanted.limit(PAGE_SIZE)).all()
    end = found[-1].id if len(found) == PAGE_SIZE else last
    return RowPage(users=tuple(map(from_columns, found)), cursor=None if end is None else to_cursor([end]))


def _is_suspicious(version: int, late: str) -> sa.ColumnElement[bool]:
    shown, last_active, stored = users.c.presenceAvailability, users.c.lastActive, users.c.presenceVersion
    return sa.or_(
        users.c.presenceClaim.is_not(None),
        sa.and_(users.c.isOnline.is_not(None), users.c.isOnline != sa.true(), users.c.isOnline != sa.false()),
        sa.and_(last_active.is_not(None), sa.or_(sa.not_(is_time), last_active > late)),
        sa.func.typeof(stored) != "integer",
        stored < 0,
        stored >= min(version, VERSION_UNBELIEVABLE),
        shown.is_(None),
        shown.not_in([each.value for each in Availability]),
        sa.and_(_is_online, shown == Availability.OFFLINE.value),
        sa.and_(users.c.isOnline.is_not(sa.true()), shown != Availability.OFFLINE.value),
    )


def count(connection: sa.Connection) -> Counts:
    """Count the users, and those online by availability."""
    by_availability = sa.select(users.c.presenceAvailability, sa.func.count()).where(_is_online)
    online = {row[0]: row[1] for row in connection.execute(by_availability.group_by(users.c.presenceAvailability))}
    return Counts(
        users=connection.execute(_count).scalar_one(),
        online=sum(online.values()),
        away=online.get(Availability.AWAY, 0),
        busy=online.get(Availability.BUSY, 0),
        odd=connection.execute(_count.where(is_no_boolean)).scalar_one(),
    )


def count_not_offline(connection: sa.Connection, *, active: Active) -> int:
    """Count those online, or who look so; or those of them last active as is said."""
    kinds = (_is_online, is_no_boolean)
    return sum(connection.execute(_count.where(kind, *_was_active(active))).scalar_one() for kind in kinds)


def reset(
    connection: sa.Connection, user_ids: list[str], *, version: int, active: Active
) -> tuple[int, dict[str, str]]:
    """Set those of the users offline for whom all of it holds at this moment: online, older, last active as is said.

    Returns how many, and whom of them the database refuses, with its reason.
    """
    # "is not false" for "= true", with which SQLite would go through the index of all those online, for each batch
    is_online = users.c.isOnline.is_not(sa.false())
    statement = (
        users.update()
        .where(_is_wanted, is_online, _version < version, *_was_active(active))
        .values(isOnline=sa.false(), presenceAvailability=Availability.OFFLINE.value, presenceVersion=version)
    )
    halving = _Halving(statement, "ids")
    halving.write(connection, user_ids)
    return halving.written, halving.refused


def read_max_version(connection: sa.Connection) -> int:
    """Read the newest version of any row."""
    return connection.execute(sa.select(sa.func.max(_version))).scalar_one() or 0


def _was_active(active: Active) -> list[sa.ColumnElement[bool]]:
    before, late = active
    if before is None:
        return []
    either = [users.c.lastActive < before, users.c.lastActive.is_(None)]
    return [sa.or_(*either, *([] if late is None else [users.c.lastActive > late]))]


def _change(connection: sa.Connection, statement: sa.Executable, parameters: dict[str, str]) -> int:
    """Run a statement that changes rows; returns how many it changed."""
    return connection.execute(statement, parameters, execution_options={"preserve_rowcount": True}).rowcount


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
