"""The node that owns a collection: one document, ``{_id: <collection>, …}``, in ``herenow_nodes``.

One document, because a single one is what MongoDB changes atomically also without a replica set: a claim replaces just
the row that it has looked at, and looks again if that is gone.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from herenow.errors import StoreInUse
from herenow.store.mongo_connection import Document
from herenow.store.nodes import Node, find_rival

COLLECTION = "herenow_nodes"


class Nodes(msgspec.Struct, frozen=True):
    """Where the row is: the collection of the nodes, and the name of the users' collection that they own."""

    collection: AsyncCollection[Document]
    owned: str


async def read_nodes(nodes: Nodes) -> list[Node]:
    """Read who owns the users: one node, or none."""
    found = await nodes.collection.find_one({"_id": nodes.owned})
    node = None if found is None else _from_document(found)
    return [] if node is None else [node]


async def take_over(nodes: Nodes, node: Node, *, database: str) -> tuple[Node, ...]:
    """Put the node's row in the place of the other, if that one does not live; returns the one that it replaced.

    Raises:
        StoreInUse: it lives.
    """
    mine = {"_id": nodes.owned, **msgspec.structs.asdict(node)}
    while True:
        found = await nodes.collection.find_one({"_id": nodes.owned})
        if found is None:
            try:
                await nodes.collection.insert_one(mine)
            except DuplicateKeyError:
                continue  # somebody was faster
            return ()
        known = _from_document(found)
        rival = None if known is None else find_rival([known], node)
        if rival is not None:
            raise StoreInUse(database, host=rival.host, pid=rival.pid, beat_ms=rival.beat_ms)
        replaced = await nodes.collection.replace_one(found, mine)  # just this row: not one that came or beat meanwhile
        if replaced.matched_count:
            is_other = known is not None and (known.name, known.epoch) != (node.name, node.epoch)
            return (known,) if known is not None and is_other else ()


async def beat(nodes: Nodes, node: Node, *, database: str) -> None:
    """Renew the node's row, or write it anew if it is gone.

    Raises:
        StoreInUse: it is gone because another node, which lives, took over.
    """
    renewed = await nodes.collection.update_one(_is(nodes, node), {"$set": {"beat_ms": node.beat_ms}})
    if not renewed.matched_count:
        await take_over(nodes, node, database=database)


async def release(nodes: Nodes, node: Node) -> None:
    """Remove the node's row."""
    await nodes.collection.delete_one(_is(nodes, node))


def _is(nodes: Nodes, node: Node) -> Document:
    return {"_id": nodes.owned, "name": node.name, "epoch": node.epoch}


def _from_document(document: Mapping[str, Any]) -> Node | None:
    """Read a row; ``None`` if somebody has made another thing of it."""
    try:
        return msgspec.convert({name: value for name, value in document.items() if name != "_id"}, Node)
    except msgspec.ValidationError:
        return None
