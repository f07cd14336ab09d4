"""Every answer and request of the HTTP API as a checked model. The commands read and print the same ones.

Field names are camelCase and times ISO 8601 UTC, as everywhere on the wire; durations end in ``Ms``.
"""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from herenow.model import MAX_USER_ID_LENGTH, Availability, Cause, Claimed
from herenow.settings import Settings
from herenow.store.base import Counts
from herenow.store.nodes import Sighting
from herenow.tenancy import split
from herenow.times import to_iso
from herenow.wire import TEXT_PATTERN, USER_ID_PATTERN

MOST_PER_CALL = 1000
"""Users in one question or on one page."""

SHOWN_AT_MOST = 20
"""Users that a status names, and drifts that it gives as examples."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2025-03-01T09:30:00.250Z"])]


UserId = Annotated[str, Field(min_length=1, max_length=MAX_USER_ID_LENGTH, pattern=USER_ID_PATTERN)]


class Answer(BaseModel):
    """What the server says. A client ignores fields that it does not know."""

    # Built when first used: a command uses one or two of them, and building all takes 30 ms of somebody's waiting.
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, defer_build=True)


class Question(BaseModel):
    """What a client asks. Unknown fields are an error, and so is ``0`` for ``false``."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="forbid", strict=True)


A = TypeVar("A", bound=Answer)


def of_tenant(answer: A, tenant: str | None) -> A:
    """Say whose user an answer to an operator is about: ``tenant`` is left out for one of no tenant."""
    return answer if tenant is None else answer.model_copy(update={"tenant": tenant})


class ErrorDetail(Answer):
    """Why it could not be done. ``temporary``: the same request can succeed later."""

    code: str
    message: str
    temporary: bool


class Failed(Answer):
    """Every answer that is not a success."""

    error: ErrorDetail


# -- reading ---------------------------------------------------------------------------------------------------------


class User(Answer):
    """A user as others see them. ``lastActive`` is ``null`` for one who was never seen."""

    user_id: str
    is_online: bool
    availability: Availability
    last_active: Time | None
    status_text: str | None = None
    status_until: Time | None = None
    version: int


class MayBeStale(Answer):
    """``stale``: the registry of the cluster is away, and this is how it was at ``asOf``. Left out: it is so now."""

    stale: bool | None = None
    as_of: Time | None = None


class OneUser(User, MayBeStale):
    """A user as others see them, and whether that may be old."""


class UsersQuestion(Question):
    """Users by id, at most a thousand."""

    users: Annotated[list[UserId], Field(max_length=MOST_PER_CALL)]


class Users(MayBeStale):
    """Users in the order asked for, each once. ``canonical``: the ``userId`` of each id that was written otherwise."""

    version: int
    users: list[User]
    canonical: dict[str, str] | None = None


class ClaimOrder(Question):
    """What a user is to be shown as. ``availability`` left out: as they are, with the text. ``until`` ends it."""

    availability: Annotated[Claimed, Field(strict=False)] | None = None  # a word in JSON, a Claimed here
    text: Annotated[str, Field(pattern=TEXT_PATTERN)] | None = None
    until: Time | None = None


class ClaimAnswer(Answer):
    """The user as they see themselves now: one who is invisible sees themselves online."""

    user: User


class Online(MayBeStale):
    """A page of those who are online, most recently active first; without a ``cursor`` it is the last."""

    version: int
    users: list[User]
    cursor: str | None = None


class Bounds(Answer):
    """The promises: within what time the truth is told."""

    offline_within_ms: int
    silent_loss_ms: int
    restart_ms: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Compute them from live settings."""
        return cls(
            offline_within_ms=round(settings.offline_within_s * 1000),
            silent_loss_ms=round(settings.silent_loss_s * 1000),
            restart_ms=round(settings.restart_grace_s * 1000),
        )


class Stats(Answer):
    """How many there are. ``users`` is the sum of ``online``, ``away`` and ``busy``."""

    online: int
    away: int
    busy: int
    connections: int
    users: int
    version: int
    bounds: Bounds


# -- health ----------------------------------------------------------------------------------------------------------


class Alive(Answer):
    """The process answers."""

    alive: Literal[True]


class WriterHealth(Answer):
    """How the store follows."""

    healthy: bool
    pending: int
    lag_ms: int
    written: int
    failures: int
    last_error: str | None


class AuditHealth(Answer):
    """How often the store was compared with the registry, and what came of it.

    ``troubles``: what the last comparison missed of that which `init` makes, mended or not.
    """

    rounds: int
    failures: int
    ghosts: int
    missing: int
    wrong: int
    repaired: int
    troubles: list[str]
    last_error: str | None


class NodeHealth(Answer):
    """Which server answers."""

    name: str
    started: Time


class Readiness(Answer):
    """Whether the server should get traffic. ``store`` and ``audit`` are told only to the operator's keys.

    ``degraded``: it should, and cannot do all: what it cannot, no other node can either.
    """

    ready: bool
    reason: str | None = None
    degraded: str | None = None
    store: WriterHealth | None = None
    audit: AuditHealth | None = None
    node: NodeHealth | None = None


# -- maintenance -----------------------------------------------------------------------------------------------------


class NodeStatus(Answer):
    """A node among the others. ``users``: whom it serves. ``isLeader``: whether it keeps the store."""

    id: str
    version: str
    users: int
    is_leader: bool


class ServerStatus(Answer):
    """A server that is in the store's list; or a node of a cluster, of which ``cluster`` says more."""

    name: str
    host: str
    pid: int
    address: str
    started: Time
    last_beat: Time
    is_alive: bool
    cluster: NodeStatus | None = None

    @classmethod
    def of(cls, sighting: Sighting, *, is_alive: bool) -> Self:
        """Describe a node as it was found."""
        node = sighting.node
        return cls(
            name=node.name,
            host=node.host,
            pid=node.pid,
            address=node.address,
            started=to_iso(node.started_ms),
            last_beat=to_iso(node.beat_ms),
            is_alive=is_alive,
        )


class StoreCounts(Answer):
    """What the store says. ``away`` and ``busy`` are among ``online``; of ``odd`` it says neither true nor false."""

    users: int
    online: int
    away: int
    busy: int
    odd: int = 0

    @classmethod
    def of(cls, counts: Counts) -> Self:
        """Take over the store's counts."""
        return cls(users=counts.users, online=counts.online, away=counts.away, busy=counts.busy, odd=counts.odd)


class OnlineUser(Answer):
    """Somebody who is online. ``since`` is when their oldest open connection began.

    Without a live server there are no connections, and ``since`` is unknown.
    """

    user_id: str
    availability: Availability
    since: Time | None
    connections: int
    last_active: Time | None
    tenant: str | None = None


class Ghost(Answer):
    """A user of whom the store and the registry disagree."""

    user_id: str
    kind: Literal["ghost", "missing", "wrong"]
    tenant: str | None = None

    @classmethod
    def of(cls, key: str, kind: Literal["ghost", "missing", "wrong"]) -> Self:
        """Name a user by the key that the store knows."""
        tenant, user_id = split(key)
        return of_tenant(cls(user_id=user_id, kind=kind), tenant)


class Drift(Answer):
    """Where the store and the registry disagree: how many users of each kind, and the first of them.

    ``checked`` counts who is online there and who is known here, so most of them twice. ``wrong``: the two agree on who
    is online, and another field is not what it should be.
    """

    checked: int
    ghosts: int
    missing: int
    wrong: int = 0
    examples: list[Ghost]

    @property
    def is_none(self) -> bool:
        """Whether they agree."""
        return not (self.ghosts or self.missing or self.wrong)


class Status(Answer):
    """The whole picture. ``stats`` and ``writer`` are there only when a live server tells it.

    ``complaints`` says what is wrong with the rows of the servers: somebody removed or damaged one.
    ``troubles``: what is missing in the database of that which `init` makes, with what it costs.
    """

    database: str
    time: Time
    servers: list[ServerStatus]
    complaints: list[str] = []
    stored: StoreCounts
    stats: Stats | None
    writer: WriterHealth | None
    online_total: int
    online_first: list[OnlineUser]
    bounds: Bounds
    drift: Drift
    troubles: list[str] = []


class CleanupOrder(Question):
    """``disconnect``: close live connections too. ``dryRun``: say what would happen, and do nothing."""

    disconnect: bool = False
    dry_run: bool = False


class StaleOrder(Question):
    """``olderThanMs``: how long a user must have been silent."""

    older_than_ms: Annotated[int, Field(gt=0, le=10 * 366 * 86_400_000)]
    dry_run: bool = False


class Cleaned(Answer):
    """What a clean-up did, or would do.

    ``offline`` users were set offline, ``protectedUsers`` were left alone because they are there, ``closed``
    connections were closed.
    """

    dry_run: bool
    offline: int
    protected_users: int
    closed: int


class DisconnectAnswer(Answer):
    """How many connections were closed."""

    closed: int


class ExplainedConnection(Answer):
    """One connection. ``lastHeard`` is its last answer to a heartbeat; after ``deadline`` it counts as lost."""

    connection_id: str
    transport: str | None
    address: str | None
    node: str
    opened: Time
    age_ms: int
    last_activity: Time
    is_idle: bool
    last_heard: Time | None = None
    deadline: Time | None = None


class StoredRow(Answer):
    """What the store has of the user. ``pending``: a newer row is on its way."""

    is_online: bool
    availability: Availability
    last_active: Time | None
    claim: str | None
    claim_text: str | None
    claim_until: Time | None
    agrees: bool
    pending: bool


class NextMoment(Answer):
    """The next moment that changes the answer, if nothing else happens."""

    at: Time
    what: str


class PastChange(Answer):
    """A change that others saw: when, what the user was shown as from then on, and what caused it."""

    at: Time
    availability: Availability
    cause: Cause


class Explained(Answer):
    """Why a user is shown as they are: the verdict, the rule behind it, and the facts that it rests on."""

    user_id: str
    time: Time
    source: Literal["server", "store"]
    availability: Availability
    is_online: bool
    verdict: str
    rule: str
    connections: list[ExplainedConnection]
    stored: StoredRow | None
    agreement: str
    agrees: bool
    next: NextMoment | None
    changes: list[PastChange] = []
    tenant: str | None = None
