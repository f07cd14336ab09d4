"""The tables of the SQL store, and the plan that creates or adopts them.

``users`` may be the application's own table. herenow then adds its columns, touches no other, and never creates a
user; only in a table that it made itself does it also create users. The two columns that an application reads keep the
names of the system that herenow replaces, ``isOnline`` and ``lastActive``; the others are prefixed, because they may
stand beside the application's own ``version`` or ``status``.

``lastActive`` is text, ISO 8601 in UTC with milliseconds: a developer can read it in any SQLite shell, JavaScript's
``Date`` and SQLite's ``strftime`` understand it, it is the form on the wire, and it sorts as it reads, so that one
index serves both "who is online" and "most recently active first". Milliseconds as a number would save 16 bytes a user
and could be read by nobody.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial

import msgspec
import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn

from herenow.errors import StoreMismatch, StoreNotReady, StoreTooNew
from herenow.store.base import Gaps
from herenow.store.sqlite.errors import is_of_statement

SCHEMA_VERSION = 1
"""The version that this code writes and the newest that it understands."""

SCHEMA_TABLE = "herenow_schema"

METADATA = sa.MetaData()

users = sa.Table(
    "users",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True, nullable=False),
    sa.Column("isOnline", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("lastActive", sa.Text),
    sa.Column("presenceAvailability", sa.Text, nullable=False, server_default="offline"),
    sa.Column("presenceClaim", sa.Text),
    sa.Column("presenceVersion", sa.Integer, nullable=False, server_default=sa.text("0")),
    sqlite_with_rowid=False,  # rows are found by id alone: one tree instead of two, a third faster to write
)

# The id is part of the order, so that a page has a definite end among users of the same millisecond.
_online_index = sa.Index("herenow_online", users.c.isOnline, users.c.lastActive.desc(), users.c.id.desc())
_claims_index = sa.Index("herenow_claims", users.c.id, sqlite_where=users.c.presenceClaim.is_not(None))

nodes = sa.Table(
    "herenow_nodes",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("started_ms", sa.Integer, nullable=False),
    sa.Column("beat_ms", sa.Integer, nullable=False),
    sa.Column("lease_ms", sa.Integer, nullable=False),
)

_schema = sa.Table(
    SCHEMA_TABLE,
    METADATA,
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("owns_users", sa.Boolean, nullable=False),
)


class Schema(msgspec.Struct, frozen=True):
    """The schema that a database has: its version, and whether herenow made the users table itself."""

    version: int
    owns_users: bool


class Affinity(StrEnum):
    """As what SQLite keeps and compares the values of a column (https://www.sqlite.org/datatype3.html, section 3.1)."""

    NUMERIC = "numeric"
    REAL = "real"
    TEXT = "text"
    """Text, or whatever it was given."""


class SchemaStep(msgspec.Struct, frozen=True):
    """One step of the plan: a sentence for people, what it does, and what it is to lack what it brings."""

    sentence: str
    execute: Callable[[sa.Connection], object]
    lack: str


def read_schema(connection: sa.Connection, database: str) -> Schema | None:
    """Read which schema a database has; ``None`` if it was never prepared.

    Raises:
        StoreTooNew: a newer herenow made it.
    """
    if not sa.inspect(connection).has_table(_schema.name):
        return None
    row = connection.execute(sa.select(_schema)).first()
    if row is None:
        return None
    if row.version > SCHEMA_VERSION:
        raise StoreTooNew(database, found=row.version, known=SCHEMA_VERSION)
    return Schema(version=row.version, owns_users=row.owns_users)


def has_users(connection: sa.Connection) -> bool:
    """Say whether there is a table of users, whoever made it."""
    return sa.inspect(connection).has_table(users.name)


def read_affinity(connection: sa.Connection) -> Affinity:
    """Read off the users table how SQLite compares its ids: to a column of numbers, the text ``007`` is 7."""
    columns = connection.execute(sa.text("SELECT name, type FROM pragma_table_info('users')"))
    declared = next((type_.upper() for name, type_ in columns if name.lower() == "id"), "TEXT")
    if "INT" in declared:
        return Affinity.NUMERIC
    if declared == "" or any(word in declared for word in ("CHAR", "CLOB", "TEXT", "BLOB")):
        return Affinity.TEXT
    return Affinity.REAL if any(word in declared for word in ("REAL", "FLOA", "DOUB")) else Affinity.NUMERIC


def plan(connection: sa.Connection, database: str, *, owns_users: bool | None = None) -> list[SchemaStep]:
    """Compare a database with what herenow needs, and say what is missing. Changes nothing.

    Args:
        connection: to it.
        database: as a person names it.
        owns_users: whether the users table was herenow's own; ``None`` if that is not known from before.

    Raises:
        StoreTooNew: a newer herenow made it.
        StoreMismatch: its users table cannot be adopted.
    """
    schema = read_schema(connection, database)
    inspector = sa.inspect(connection)
    there = inspector.has_table(users.name)
    steps = _plan_adoption(inspector, connection.dialect, database) if there else [_creation(users)]
    if there:
        _require_exact_ids(connection, database)
    indexed = {index["name"] for index in inspector.get_indexes(users.name)} if there else set()
    for index, what in _INDEXES.items():
        if (elsewhere := _table_of(connection, index)) not in (None, users.name):
            # A table that was renamed took it along, and a name is given once in a database.
            drop = partial(_execute, sa.text(f'DROP INDEX "{index.name}"'))
            of = f"the index {index.name} of {elsewhere}, which was users once"
            steps.insert(0, SchemaStep(f"drop {of}", drop, f"{of}, has the name of ours"))
        if index.name not in indexed:
            # users.create brings them along, and then there is nothing left to do
            steps.append(
                SchemaStep(
                    f"create the index {index.name} on users {what}",
                    partial(index.create, checkfirst=True),
                    f"the index {index.name} on users is missing: {_COSTS[index]}",
                )
            )
    steps += [_creation(table) for table in (nodes, _schema) if not inspector.has_table(table.name)]
    if schema is None:
        note = _schema.insert().values(
            version=SCHEMA_VERSION, owns_users=not there if owns_users is None else owns_users
        )
        step = f"note the schema version {SCHEMA_VERSION}"
        steps.append(SchemaStep(step, partial(_execute, note), "the note of the schema version is missing"))
    return steps


def find_gaps(connection: sa.Connection, database: str) -> Gaps:
    """Say what is missing of a database that was prepared.

    Raises:
        StoreTooNew, StoreMismatch: as ``plan``.
    """
    if not sa.inspect(connection).has_table(users.name):
        return Gaps(users="its table users is gone: somebody has dropped or renamed it")
    lacks = tuple(step.lack for step in plan(connection, database))
    return Gaps(parts=lacks, is_empty=connection.execute(sa.select(users.c.id).limit(1)).first() is None)


def carry_out(
    connection: sa.Connection, database: str, *, adopt_only: bool = False, owns_users: bool | None = None
) -> list[str]:
    """Plan, and do it, in one transaction, so that nobody ever sees half a schema. Returns what was done.

    Raises:
        StoreNotReady: with ``adopt_only``, the application's table is not there.
        StoreTooNew, StoreMismatch: as ``plan``; or a step did not work on what the application has.
    """
    if adopt_only and not sa.inspect(connection).has_table(users.name):
        raise StoreNotReady(database, "its table users, which is the application's, is not there")
    steps = plan(connection, database, owns_users=owns_users)
    for step in steps:
        try:
            step.execute(connection)
        except sa.exc.DBAPIError as error:
            if is_of_statement(error):
                raise StoreMismatch(database, f"it was not possible to {step.sentence}: {error.orig}") from error
            raise
    return [step.sentence for step in steps]


_INDEXES = {
    _online_index: "(isOnline, lastActive descending, id descending)",
    _claims_index: "(id) where there is a claim",
}
_COSTS = {
    _online_index: "whoever asks who is online, or was active last, goes through all users",
    _claims_index: "a start goes through all users",
}


def _table_of(connection: sa.Connection, index: sa.Index) -> str | None:
    """Return the table that has an index of this name."""
    of = sa.text("SELECT tbl_name FROM sqlite_master WHERE type = 'index' AND name = :name")
    table: str | None = connection.execute(of, {"name": index.name}).scalar()
    return table


def _execute(statement: sa.Executable, connection: sa.Connection) -> None:
    connection.execute(statement)


def column_names(inspector: sa.Inspector) -> set[str]:
    """The columns of the users table in lower case: to SQLite, ``isonline`` and ``isOnline`` are one."""
    return {column["name"].lower() for column in inspector.get_columns(users.name)}


def _creation(table: sa.Table) -> SchemaStep:
    return SchemaStep(f"create the table {table.name}", table.create, f"the table {table.name} is missing")


def _plan_adoption(inspector: sa.Inspector, dialect: sa.Dialect, database: str) -> list[SchemaStep]:
    """Say which columns the application's own users table lacks, once it is sure that its ids name one user each."""
    if users.name in inspector.get_view_names():
        raise StoreMismatch(database, "users is a view, not a table")
    columns = column_names(inspector)
    if "id" not in columns:
        raise StoreMismatch(database, f"its table users has no column id, only {', '.join(sorted(columns))}")
    unique: list[Sequence[str | None]] = [inspector.get_pk_constraint(users.name)["constrained_columns"]]
    unique += [constraint["column_names"] for constraint in inspector.get_unique_constraints(users.name)]
    unique += [index["column_names"] for index in inspector.get_indexes(users.name) if index["unique"]]
    if not any(len(names) == 1 and str(names[0]).lower() == "id" for names in unique):
        raise StoreMismatch(database, "the column id of its table users is neither the primary key nor unique")
    steps = []
    for column in users.c:
        if column.name.lower() not in columns:
            specification = CreateColumn(column).compile(dialect=dialect)
            add = sa.text(f"ALTER TABLE users ADD COLUMN {specification}")
            sentence = f"add the column {column.name} to the table users"
            steps.append(SchemaStep(sentence, partial(_execute, add), f"the column {column.name} of users is missing"))
    return steps


def _require_exact_ids(connection: sa.Connection, database: str) -> None:
    """See that SQLite tells the ids apart by each of their characters, or it would take two users for one."""
    collations = connection.scalars(
        sa.text(
            "SELECT x.coll FROM pragma_index_list('users') AS i, pragma_index_xinfo(i.name) AS x "
            "WHERE i.\"unique\" AND x.key AND lower(x.name) = 'id'"
        )
    )
    for collation in collations:
        if collation != "BINARY":
            raise StoreMismatch(
                database,
                f"the column id of its table users has the collation {collation}, under which SQLite may take two ids "
                "for one; herenow knows a user by each character of the id: declare it without a collation",
            )
