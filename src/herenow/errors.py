"""Every error of herenow, in one tree.

::

    HerenowError
    ├── SettingsInvalid         a setting is wrong, or two do not fit together
    ├── NotStarted              presence was asked before it was started
    │   └── Replaced            another server has taken the store over: this one serves nobody any more
    ├── AlreadyStarted          presence was started, and not stopped since
    ├── TenantsNotKept          the store could not keep the users of tenants apart
    ├── RegistryUnavailable     the registry of a cluster cannot be reached (temporary)
    └── StoreError              the store cannot do what was asked
        ├── StoreUnavailable    not now: locked, full, out of reach (temporary)
        │   └── StoreUnforeseen for a reason that nobody foresaw (temporary)
        ├── StoreDenied         it does not let this user in, or do that
        ├── StoreNotReady       nothing was prepared there yet
        ├── StoreNotWritable    this user or this file system does not let us write
        ├── StoreCorrupt        damaged, or not a database at all
        ├── StoreTooNew         a newer herenow made its schema
        ├── StoreMismatch       a users table is there that cannot be adopted
        ├── StoreRefused        it took some of the users, and would not take others
        ├── StoreInUse          another live server owns it
        ├── StoreUrlInvalid     the address names no store that can be used
        └── CursorInvalid       a paging cursor that this store did not give out

Each is one sentence that names the thing. ``temporary`` says whether trying again later can help, with nothing changed.
"""

from typing import ClassVar

from herenow.times import to_iso


class HerenowError(Exception):
    """Anything that herenow itself raises.

    Attributes:
        temporary: trying the same again later can help.
    """

    temporary: ClassVar[bool] = False


class SettingsInvalid(HerenowError):
    """A setting is wrong, or two do not fit together; the sentence names them."""


class NotStarted(HerenowError):
    """Presence was asked for something before it was started, or after it was stopped."""

    def __init__(self) -> None:
        super().__init__("presence is not started: it starts with its application, or with `await presence.start()`")


class Replaced(NotStarted):
    """Presence was asked for something after another server had taken its store over: what it knows is not true now."""

    def __init__(self) -> None:
        HerenowError.__init__(self, "another server has taken the store over: this one serves nobody any more")


class AlreadyStarted(HerenowError):
    """Presence was started a second time, and not stopped in between."""

    def __init__(self) -> None:
        super().__init__(
            "presence is started already: one Presence belongs to one running application at a time, so let the first "
            "one end, or make another Presence on a database of its own"
        )


class TenantsNotKept(HerenowError):
    """Something was asked of a tenant, and the store could not keep its users apart from those of others."""

    def __init__(self) -> None:
        super().__init__("this server's database does not say whose tenant a user is: set tenant_field (MongoDB)")


class RegistryUnavailable(HerenowError):
    """The registry of a cluster cannot be reached: what was asked of it may or may not have been done. Ask again."""

    temporary = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"the registry of the cluster cannot be reached: {reason}")


class StoreError(HerenowError):
    """The store cannot do what was asked.

    Attributes:
        database: which one, as a person would name it: a path, or an address without its password.
        reason: why, as a clause without a full stop.
    """

    _sentence: ClassVar[str] = "The database {database} failed: {reason}."

    def __init__(self, database: str, reason: str) -> None:
        super().__init__(database, reason)
        self.database = database
        self.reason = reason

    def __str__(self) -> str:
        return self._sentence.format(database=self.database, reason=self.reason)


class StoreUnavailable(StoreError):
    """It cannot be used right now: locked by another program, out of space, out of reach."""

    temporary = True
    _sentence = "The database {database} cannot be used right now: {reason}."


class StoreUnforeseen(StoreUnavailable):
    """It cannot be used, for a reason that nobody foresaw: it may lie in the database, or in a single row."""


class StoreDenied(StoreError):
    """It does not let this user in, or do what was asked."""

    _sentence = "The database {database} does not allow it: {reason}."


class StoreNotReady(StoreError):
    """Nothing was prepared there yet."""

    _sentence = (
        "The database {database} is not prepared ({reason}): run `herenow init`, or name the right one with "
        "--database (HERENOW_DATABASE)."
    )


class StoreNotWritable(StoreError):
    """This user, or this file system, does not let us write."""

    _sentence = "The database {database} cannot be written: {reason}."


class StoreCorrupt(StoreError):
    """The file is damaged, or is not a database at all."""

    _sentence = "The database {database} is damaged, or is not a database: {reason}."


class StoreTooNew(StoreError):
    """A newer herenow made the schema; this one would not understand it.

    Attributes:
        found: the schema version that is there.
        known: the newest that this herenow knows.
    """

    _sentence = "The database {database} was made by a newer herenow: {reason}; update herenow here."

    def __init__(self, database: str, *, found: int, known: int) -> None:
        super().__init__(database, f"its schema is version {found} and this one knows up to {known}")
        self.found = found
        self.known = known


class StoreMismatch(StoreError):
    """A users table (or collection) is there, but cannot be adopted as it stands."""

    _sentence = "The users of the database {database} cannot be used: {reason}."


class StoreRefused(StoreError):
    """Some users were written, and others not, as the database refuses them: a validator of the application does."""

    _sentence = "The database {database} refuses some of it: {reason}."


class StoreInUse(StoreError):
    """Another live server owns the store.

    Attributes:
        host: the machine it runs on.
        pid: its process id there.
        beat_ms: when it last said that it lives.
        is_sibling: it is another worker of the same web server.
    """

    _sentence = "The database {database} belongs to another server: {reason}."

    def __init__(self, database: str, *, host: str, pid: int, beat_ms: int, is_sibling: bool = False) -> None:
        remedy = (
            "it is another worker of the same web server, and herenow is one process: start one worker, as uvicorn "
            "does without --workers, or wait for the old one to end"
            if is_sibling
            else "stop it first"
        )
        super().__init__(database, f"process {pid} on {host}, last beat at {to_iso(beat_ms)}; {remedy}")
        self.host = host
        self.pid = pid
        self.beat_ms = beat_ms
        self.is_sibling = is_sibling


class StoreUrlInvalid(StoreError):
    """The address names no store that can be used."""

    _sentence = "The address {database} names no usable database: {reason}."


class CursorInvalid(StoreError):
    """A paging cursor that this store did not give out."""

    _sentence = "The cursor for the database {database} is not valid: {reason}."
