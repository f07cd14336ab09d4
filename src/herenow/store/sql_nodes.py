"""The nodes of the SQL store: the inside of each transaction, as plain functions of a connection."""

import msgspec
import sqlalchemy as sa

from herenow.errors import StoreInUse
from herenow.store.nodes import Node, find_rival
from herenow.store.sql_schema import nodes


def read_nodes(connection: sa.Connection) -> list[Node]:
    """Read all nodes, the latest beat first."""
    found = connection.execute(sa.select(nodes).order_by(nodes.c.beat_ms.desc()))
    return [Node(**row._mapping) for row in found]


def take_over(connection: sa.Connection, node: Node, *, database: str, dead_hosts: frozenset[str]) -> tuple[Node, ...]:
    """Put the node's row in the place of all others, if none of them lives; returns those that it replaced.

    Raises:
        StoreInUse: one of them lives.
    """
    dead = find_dead(connection, node, database=database, dead_hosts=dead_hosts)
    connection.execute(nodes.delete())
    connection.execute(nodes.insert().values(msgspec.structs.asdict(node)))
    return dead


def find_dead(connection: sa.Connection, node: Node, *, database: str, dead_hosts: frozenset[str]) -> tuple[Node, ...]:
    """Return all other nodes, if none of them lives.

    Raises:
        StoreInUse: one of them lives.
    """
    known = read_nodes(connection)
    rival = find_rival(known, node, dead_hosts=dead_hosts)
    if rival is not None:
        raise StoreInUse(database, host=rival.host, pid=rival.pid, beat_ms=rival.beat_ms)
    return tuple(other for other in known if (other.name, other.epoch) != (node.name, node.epoch))


def beat(connection: sa.Connection, node: Node, *, database: str, dead_hosts: frozenset[str]) -> None:
    """Renew the node's row, or write it anew if it is gone.

    Raises:
        StoreInUse: it is gone because another node, which lives, took over.
    """
    renewal = nodes.update().where(*_is(node)).values(beat_ms=node.beat_ms)
    if connection.execute(renewal).rowcount == 0:
        take_over(connection, node, database=database, dead_hosts=dead_hosts)


def release(connection: sa.Connection, node: Node) -> None:
    """Remove the node's row."""
    connection.execute(nodes.delete().where(*_is(node)))


def _is(node: Node) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return nodes.c.name == node.name, nodes.c.epoch == node.epoch
