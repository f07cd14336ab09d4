"""Whether a server lives: judged by the clock of the database and, where that does not settle it, by watching.

1. A node whose process can be looked at from here, and is gone, is dead; so is one that gave the store up.
2. A node whose beat is younger than its lease lives. The database stamps the beats, and says how old they are: no
   clock of a server, and none of who looks, takes part.
3. All else is doubtful. An old beat may be young: the clock of the database jumped, another of its members has taken
   over, or it was away and no server could beat. A beat may be from the future. A row that somebody removed or damaged
   may be of a server that lives, and writes it anew with its next beat. What is doubtful is watched: it lives as soon
   as it moves, and is dead once it has not moved for a lease, on the steady clock of who watches.

So a clock that is wrong costs who looks a wait of one lease, and never lets in a second server.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

from herenow.errors import StoreError
from herenow.store.nodes import Node, Roll, Sighting, is_gone, is_running, is_same

STEP_S = 0.1
"""Between two looks."""

Look = Callable[[], Awaitable[Roll]]


class Watch:
    """Judges one look after the other.

    Args:
        lease_s: how long to watch a row that does not say its lease.
        claimant: a node that is not its own rival.
        succeeds: says of a node that the claimant follows it, be it dead or not.
        dead_hosts: machines of which something better than a clock, such as a file lock, says that no node lives;
            it is not believed of a process that can be seen to run.
    """

    def __init__(
        self,
        lease_s: float,
        *,
        claimant: Node | None = None,
        succeeds: Callable[[Node], bool] | None = None,
        dead_hosts: Collection[str] = frozenset(),
    ) -> None:
        self._lease_s = lease_s
        self._claimant = claimant
        self._succeeds = succeeds
        self._dead_hosts = dead_hosts
        self._still_s: dict[object, float] = {}  # what is doubtful, and for how long it has not moved
        self.is_sure = False

    def judge(self, roll: Roll, passed_s: float) -> Sighting | None:
        """Return who lives. ``None`` if nobody is seen to: then ``is_sure`` says whether nobody does.

        Args:
            roll: what was found.
            passed_s: seconds since the look before.
        """
        doubtful: dict[object, float] = {}
        for sighting in roll.sightings:
            node = sighting.node
            if self._is_out_of_the_question(node):
                continue
            is_known = (node.name, node.epoch, sighting.stamp) in self._still_s
            has_moved = not is_known and any(key[:2] == (node.name, node.epoch) for key in self._keys())
            if has_moved or (sighting.is_fresh and not is_known):
                return sighting
            doubtful[node.name, node.epoch, sighting.stamp] = node.lease_ms / 1000
        doubtful |= {damage.holds: self._lease_s for damage in roll.damaged}
        if roll.is_removed:
            doubtful[None] = self._lease_s
        self._still_s = {key: self._still_s[key] + passed_s if key in self._still_s else 0.0 for key in doubtful}
        self.is_sure = all(self._still_s[key] >= lease_s for key, lease_s in doubtful.items())
        return None

    def _is_out_of_the_question(self, node: Node) -> bool:
        if node.lease_ms == 0 or (self._claimant is not None and is_same(node, self._claimant)):
            return True
        if self._succeeds is not None and self._succeeds(node):
            return True
        return is_gone(node) or (node.host in self._dead_hosts and not is_running(node))

    def _keys(self) -> list[tuple[object, ...]]:
        return [key for key in self._still_s if isinstance(key, tuple)]


async def is_served(look: Look) -> bool:
    """Say at once whether a server seems to live; to be sure takes a lease.

    Of a store that was never prepared, or cannot be read, it says that none does.
    """
    try:
        roll = await look()
    except StoreError:
        return False
    return any(sighting.is_fresh and not is_gone(sighting.node) for sighting in roll.sightings)


async def find_living(
    look: Look,
    watch: Watch,
    *,
    on_doubt: Callable[[Roll], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Sighting | None:
    """Look until it is certain whether a server lives; at once where it can be, else for a lease at most.

    Args:
        look: reads the rows.
        watch: judges them.
        on_doubt: told once, if it takes longer, what was found.
        clock: seconds that only grow.
        sleep: waits some seconds of that clock.

    Returns:
        Who lives.

    Raises:
        StoreError: the rows cannot be read.
    """
    looked_s = clock()
    told = False
    while True:
        roll = await look()
        # No more than two steps count: who was stopped has not looked, and whom they watch may have been stopped too.
        passed_s, looked_s = min(clock() - looked_s, 2 * STEP_S), clock()
        living = watch.judge(roll, passed_s)
        if living is not None or watch.is_sure:
            return living
        if on_doubt is not None and not told:
            told = True
            on_doubt(roll)
        await sleep(STEP_S)
