"""The nodes of the SQL store: the inside of each transaction, as plain functions of a connection.

There is one row, and the node that owns the store writes it whole with each beat: whatever somebody made of it, or put
beside it, is gone with the next. The clock of a database that is a file is the clock of its machine.
"""

import msgspec
import sqlalchemy as sa

from herenow.store.nodes import Node, Roll, in_use, is_of_same_process, read_roll
from herenow.store.sqlite.schema import SCHEMA_TABLE, nodes
from herenow.times import unix_ms

_NAMES = [str(column.name) for column in nodes.c]


def read(connection: sa.Connection) -> Roll:
    """Read the nodes."""
    now_ms = unix_ms()
    try:
        found = connection.execute(sa.select(nodes)).all()
    except sa.exc.OperationalError:
        inspector = sa.inspect(connection)
        if inspector.has_table(nodes.name) or not inspector.has_table(SCHEMA_TABLE):
            raise
        return Roll(is_removed=True)  # somebody dropped their table
    rows = (dict(zip(_NAMES, row, strict=True)) for row in found)
    return read_roll(rows, database_ms=now_ms, here_ms=now_ms)


def take_over(connection: sa.Connection, node: Node, judged: Roll) -> int | None:
    """Put the node's row in the place of all others; returns its beat. ``None``: others are there than were judged."""
    if judged.is_removed:
        create(connection)
    found = read(connection)
    if _what_is_in(found) != _what_is_in(judged):
        return None
    return _write(connection, node)


def beat(connection: sa.Connection, node: Node, *, database: str) -> int:
    """Renew the node's row, or write it anew if it is gone or damaged; returns the beat.

    Raises:
        StoreInUse: another node took over.
    """
    refuse_if_replaced(connection, node, database=database)
    return _write(connection, node)


def refuse_if_replaced(connection: sa.Connection, node: Node, *, database: str) -> None:
    """See that no other node took over. A row that was removed, or made unreadable, is no other node.

    Raises:
        StoreInUse: one did.
    """
    if connection.execute(sa.select(nodes.c.name).where(*_is(node))).first() is not None:
        return
    for other in read(connection).nodes:
        if not is_of_same_process(other, node):
            raise in_use(database, other)


def create(connection: sa.Connection) -> None:
    """Make their table anew, if somebody dropped it."""
    nodes.create(connection, checkfirst=True)


def release(connection: sa.Connection, node: Node) -> None:
    """Remove the node's row."""
    connection.execute(nodes.delete().where(*_is(node)))


def _write(connection: sa.Connection, node: Node) -> int:
    beat_ms = unix_ms()
    connection.execute(nodes.delete())
    connection.execute(nodes.insert().values(msgspec.structs.asdict(node) | {"beat_ms": beat_ms}))
    return beat_ms


def _what_is_in(roll: Roll) -> tuple[object, ...]:
    return [(each.node.name, each.node.epoch, each.stamp) for each in roll.sightings], roll.damaged


def _is(node: Node) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return nodes.c.name == node.name, nodes.c.epoch == node.epoch
