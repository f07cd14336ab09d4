"""How a Socket.IO server behaves."""

from dataclasses import dataclass

from .engineio.settings import EngineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings(EngineSettings):
    """How a server behaves. All times are in milliseconds, all sizes in bytes.

    Attributes:
        connect_timeout_ms: how long a client may be connected to no namespace before it is closed.
        max_packet: how much one packet may hold with its attachments.
        max_running: async handlers of one connection that run at a time, at most.
        greeting_ms: how long after a CONNECT over WebSocket the first event is held back, if the connect handler sent
            one. A client whose library hands it all frames of one read in one turn, such as the published test suite's,
            registers for the next event only after it has seen its CONNECT, and would miss one that came in the same
            segment. (At 3 ms, one run in sixteen of that suite still lost one on a machine that was busy.) With 0 both
            go at once, in one write: right where every client registers before it connects, as the stock ones do.
    """

    path: str = "/socket.io/"
    connect_timeout_ms: int = 45_000
    max_packet: int = 10_000_000
    max_running: int = 64
    greeting_ms: int = 10

    def __post_init__(self) -> None:
        super(ServerSettings, self).__post_init__()  # the short form fails in a dataclass with slots
        for name in ("connect_timeout_ms", "max_packet", "max_running"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.greeting_ms < 0:
            raise ValueError(f"greeting_ms must not be below 0, as {self.greeting_ms} is")
