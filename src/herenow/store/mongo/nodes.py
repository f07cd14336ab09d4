"""The node that owns a collection: one document, ``{_id: <collection>, …}``, in ``herenow_nodes``.

One document, because a single one is what MongoDB changes atomically also without a replica set: a claim replaces just
the row that it has looked at, and looks again if that is gone. Each beat writes it whole, so that whatever somebody
made of it is gone with the next; and each is stamped by MongoDB with ``$$NOW``, its own clock.

The row stays when the store is given up (its lease is 0 then), and ``init`` leaves such a row too: so one that is not
there at all was removed by hand, and its server may live.
"""

from typing import Any

import msgspec
from bson import DatetimeMS
from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from herenow.errors import StoreUnavailable
from herenow.store.fence import Fence
from herenow.store.mongo.connection import Document
from herenow.store.nodes import Node, Roll, in_use, is_of_same_process, read_roll

COLLECTION = "herenow_nodes"

_NOW_MS = {"$toLong": "$$NOW"}


class Nodes(msgspec.Struct, frozen=True):
    """Where the row is: the collection of the nodes, and the name of the users' collection that they own."""

    collection: AsyncCollection[Document]
    owned: str


class Look(msgspec.Struct, frozen=True):
    """The row as it was found, ``None`` for none, and what it says."""

    row: Document | None
    roll: Roll


class Hold(msgspec.Struct, frozen=True):
    """What a node may write: until its lease ends, and no longer; a part of each write, and a question after it."""

    nodes: Nodes
    node: Node
    fence: Fence
    ends_ms: int
    database: str

    @property
    def condition(self) -> Document:
        """An expression that holds while nobody else can own the store: MongoDB judges it as it does the write."""
        return {"$lt": ["$$NOW", DatetimeMS(self.ends_ms)]}

    async def check(self) -> None:
        """See that it held, for a write that changed less than was expected.

        Raises:
            StoreUnavailable: it does not hold any more, so the write may not have been done.
        """
        held = {**_is(self.nodes, self.node), "$expr": self.condition}
        if await self.nodes.collection.find_one(held, {"_id": 1}) is None:
            self.fence.expire()
            raise StoreUnavailable(self.database, "this server's last sign of life in it is too old to write after it")


async def look(nodes: Nodes, *, here_ms: int) -> Look:
    """Read who owns the users, at what time of the database."""
    pipeline: list[Document] = [
        {"$match": {"_id": nodes.owned}},
        {"$project": {"_id": 0, "row": "$$ROOT", "now": _NOW_MS}},
    ]
    found = await (await nodes.collection.aggregate(pipeline)).to_list()
    if not found:
        return Look(None, Roll(is_removed=True))
    row, database_ms = found[0]["row"], int(found[0]["now"])
    fields = {name: value for name, value in row.items() if name != "_id"}
    return Look(row, read_roll([fields], database_ms=database_ms, here_ms=here_ms))


async def take_over(nodes: Nodes, node: Node, found: Document | None) -> int | None:
    """Put the node's row in the place of the one that was found; returns its beat. ``None``: that is not there now."""
    mine = {"$literal": {"_id": nodes.owned, **msgspec.structs.asdict(node)}}
    write = [{"$replaceWith": {"$mergeObjects": [mine, {"beat_ms": _NOW_MS}]}}]
    # Just this row: not one that came or beat meanwhile. Where there was none, no row matches, and one is inserted.
    just_it: Document = {"isNone": True} if found is None else {"$expr": {"$eq": ["$$ROOT", {"$literal": found}]}}
    return await _write(nodes, just_it, write, upsert=found is None)


async def beat(nodes: Nodes, node: Node, *, here_ms: int, database: str) -> int:
    """Renew the node's row, or write it anew if it is gone or damaged; returns the beat.

    Raises:
        StoreInUse: another node took over, and may have given the store up since.
    """
    mine = {"$literal": msgspec.structs.asdict(node)}
    renewal = [{"$replaceWith": {"$mergeObjects": [{"_id": "$_id"}, mine, {"beat_ms": _NOW_MS}]}}]
    while True:
        its_own = {"name": node.name, "epoch": node.epoch, "lease_ms": {"$ne": 0}}
        beat_ms = await _write(nodes, its_own, renewal, upsert=False)
        if beat_ms is not None:
            return beat_ms
        found = await look(nodes, here_ms=here_ms)
        for other in (sighting.node for sighting in found.roll.sightings):
            if other.epoch and not is_of_same_process(other, node):
                raise in_use(database, other)
        beat_ms = await take_over(nodes, node, found.row)
        if beat_ms is not None:
            return beat_ms


async def release(nodes: Nodes, node: Node) -> None:
    """Let the node's row say that it has given the store up."""
    await nodes.collection.update_one(_is(nodes, node), {"$set": {"lease_ms": 0}})


async def leave_free(nodes: Nodes) -> None:
    """Leave a row that says that nobody owns the users, if there is none."""
    nobody = Node(name="", epoch=0, host="", pid=0, process="", address="", started_ms=0, beat_ms=0, lease_ms=0)
    row = {"$setOnInsert": msgspec.structs.asdict(nobody)}
    await nodes.collection.update_one({"_id": nodes.owned}, row, upsert=True)


async def _write(nodes: Nodes, condition: Document, write: list[Document], *, upsert: bool) -> int | None:
    try:
        written: dict[str, Any] | None = await nodes.collection.find_one_and_update(
            {"_id": nodes.owned, **condition},
            write,
            projection={"beat_ms": 1},
            upsert=upsert,
            return_document=ReturnDocument.AFTER,
        )
    except DuplicateKeyError:
        return None  # somebody was faster
    return None if written is None else int(written["beat_ms"])


def _is(nodes: Nodes, node: Node) -> Document:
    return {"_id": nodes.owned, "name": node.name, "epoch": node.epoch}
