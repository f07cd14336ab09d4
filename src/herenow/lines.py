"""Lines of the log that tell of what happened to a user: each once, but of nobody without end."""

from collections.abc import Callable

from herenow.sparing import MOST_KINDS, Ration
from herenow.tenancy import split


class Lines:
    """The lines about users that tell of something that happened, by event."""

    def __init__(self) -> None:
        self.connected = Ration()
        self.disconnected = Ration()
        self.change = Ration()

    def begin(self, write: Callable[..., None]) -> None:
        """Begin a minute, and say what was left out in the one before: a line a user, and one for all beyond some."""
        for event in ("connected", "disconnected", "change"):
            ration: Ration = getattr(self, event)
            left_out = ration.begin()
            for key in tuple(left_out)[:MOST_KINDS]:
                tenant, user_id = split(key)
                about = {"user": user_id} if tenant is None else {"tenant": tenant, "user": user_id}
                write("lines left out", of=event, count=left_out.pop(key), **about)
            if left_out:
                write("lines left out", of=event, count=sum(left_out.values()), users=len(left_out))
