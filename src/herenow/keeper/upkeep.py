"""Upkeep: sees that what ``init`` made is still there, says what is not, and has it made anew.

Somebody may drop, rename or empty the users' table or collection under a running server, and tools that keep an
application's indexes in step with its code drop those that they do not know. What is the application's own is never
made in its place: it is waited for, and adopted when it is there again, as after a restored backup. The values in the
fields of users who are there already are the audit's: it knows who is online, and ``init`` does not.
"""

from herenow.errors import StoreNotReady
from herenow.logs import get_logger
from herenow.store.base import Gaps, Store

_log = get_logger(__name__)


class Upkeep:
    """Looks after the schema of a store that is served.

    Attributes:
        troubles: what was found at the last look, a sentence each, mended or not; for ``/readyz`` and people.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._had_users = False
        self._is_new = False
        self.troubles: tuple[str, ...] = ()

    async def look(self) -> bool:
        """Look once, and mend what can be.

        Returns:
            Whether the users' table or collection, or all in it, is new since the look before: whoever is missing
            there was not written yet, and not late.

        Raises:
            StoreNotReady: the application's own is gone, and is waited for.
            StoreError: the store cannot be read, or what is missing cannot be made.
        """
        gaps = await self._store.gaps()
        is_emptied = gaps.is_empty and self._had_users
        self._tell(gaps, is_emptied=is_emptied)
        was_new, self._is_new = self._is_new, gaps.users is not None or is_emptied
        is_new = was_new or self._is_new
        self._had_users = self._had_users or not (gaps.is_empty or gaps.users)
        if gaps.users is not None and not self._store.creates_users:
            raise StoreNotReady(self._store.name, f"{gaps.users}; herenow waits for it")
        if gaps.users is not None or gaps.parts:
            report = await self._store.init(adopt_only=not self._store.creates_users, values=is_new)
            for step in report.steps:
                _log.warning("store mended", step=step)
        return is_new

    def _tell(self, gaps: Gaps, *, is_emptied: bool) -> None:
        troubles = gaps.sentences
        if is_emptied:
            troubles += ("nobody is in it any more: somebody has emptied it",)
        is_grave = gaps.users is not None or is_emptied
        for trouble in troubles:
            if trouble not in self.troubles:
                (_log.error if is_grave else _log.warning)("store incomplete", trouble=trouble)
        self.troubles = troubles
