"""The projection's tables in PostgreSQL. What to write is decided elsewhere; this file knows how, and when not.

One writer at a time: every transaction of one schema holds the same advisory lock, and begins by looking where the
tables stand. Commits are not awaited on disk: rows and offsets go together, so what a crash takes is read again.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.string import StrDumper

from infra.problems import BadInput, Busy, ServiceUnavailable
from infra.settings import without_password

Row = Mapping[str, object]
Place = tuple[str, int]  # topic and partition

CONNECT_SECONDS = 10
LONGEST_SCHEMA = 48  # of the 63 bytes PostgreSQL keeps, the rest is for the names a rebuild derives from it
SCHEMA = Path(__file__).with_name("schema.sql").read_text()
VERSION = hashlib.sha256(SCHEMA.encode()).hexdigest()

# A value the database will not hold: too large, out of range, not there. Everything else it refuses is a bug of ours.
REFUSALS = (psycopg.DataError, errors.ProgramLimitExceeded, errors.NotNullViolation)


class Refused(Exception):
    """The database cannot hold a value of these rows. None of them was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A record that is in no table, and why. One that waits for a fact says for which, and keeps its own frame."""

    topic: str
    partition: int
    offset: int
    cause: str
    table: str | None = None
    fact_id: str | None = None
    missing: tuple[str, str] | None = None  # table and id
    frame: bytes | None = None


class Tables:
    """The tables of one schema, over one connection."""

    def __init__(self, connection: psycopg.Connection, schema: str) -> None:
        self._connection = connection
        self.schema = schema

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside or nothing; no other process writes to this schema meanwhile."""
        with self._connection.transaction():
            self._connection.execute(_statement("hold"), [self.schema])
            yield

    def take_over(self, seconds: float) -> bool:
        """Be the one projector of this schema for as long as the connection lives; False when another still is."""
        try:
            with self._connection.transaction():
                self._connection.execute(SQL("SET LOCAL lock_timeout = {}").format(round(1000 * seconds)))
                self._connection.execute(_statement("hold_for_session"), [f"{self.schema}.projector"])
        except errors.LockNotAvailable:
            return False
        return True

    def offsets(self) -> dict[Place, int]:
        """Where reading goes on, for every partition something was read from."""
        return {(topic, partition): at for topic, partition, at in self._connection.execute(_statement("offsets"))}

    def advance(self, offsets: Mapping[Place, int]) -> None:
        """Reading goes on here."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_statement("advance"), [(*place, offset) for place, offset in offsets.items()])

    def present(self, table: str, ids: Collection[str]) -> set[str]:
        """Those of `ids` that are rows."""
        return self._ids(_statement("present", table=table), [list(ids)])

    def claimed(self, table: str, ids: Collection[str]) -> set[str]:
        """Those of `ids` whose first fact is parked."""
        return self._ids(_statement("claimed"), [table, list(ids)])

    def insert(self, rows: Sequence[tuple[str, Row]]) -> None:
        """These rows, each with its table, or Refused and none of them; tables in the order they first appear."""
        try:
            with self._connection.transaction():
                for (table, columns), values in _by_shape(rows).items():
                    self._copy(table, columns, values)
        except REFUSALS as refusal:
            raise Refused(str(refusal).partition("\n")[0]) from refusal

    def _copy(self, table: str, columns: Sequence[str], values: Sequence[Sequence[object]]) -> None:
        names = SQL(", ").join(map(Identifier, columns))
        statement = SQL("COPY {} ({}) FROM STDIN").format(Identifier(table), names)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in values:
                copy.write_row(row)

    def park(self, parked: Sequence[Parked]) -> None:
        """Keep these aside."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_statement("park"), [_parked_row(each) for each in parked])

    def release(self, table: str, ids: Collection[str]) -> list[tuple[str, int, int, bytes]]:
        """Take out what waited for these rows: topic, partition, offset and frame of each."""
        return list(self._connection.execute(_statement("release"), [table, list(ids)]))

    def unpark(self, topic: str, partition: int, offset: int) -> bool:
        """Take out what is kept aside for good; False where nothing is."""
        return bool(self._ids(_statement("unpark"), [topic, partition, offset]))

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of every table's rows in order."""
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            names = [name for (name,) in self._connection.execute(_statement("tables"), [self.schema])]
            return {name: self._digest(name) for name in names}

    @contextmanager
    def replacing(self, schema: str) -> Iterator[None]:
        """Writers of `schema` wait; when the block is done these tables take its name, in one transaction."""
        self._connection.execute(_statement("hold_for_session"), [schema])
        try:
            yield
            self._take_the_place_of(schema)
        finally:
            if not self._connection.broken:
                self._connection.execute(_statement("let_go"), [schema])

    def _take_the_place_of(self, schema: str) -> None:
        replaced = f"{schema}_replaced"
        self._connection.execute(_drop(replaced))
        with self._connection.transaction():
            if self._connection.execute(_statement("exists"), [_quoted(schema)]).fetchone() == (True,):
                self._connection.execute(_rename(schema, replaced))
            self._connection.execute(_rename(self.schema, schema))
        self._connection.execute(_drop(replaced))

    def _ids(self, statement: Composed, arguments: Sequence[object]) -> set[str]:
        return {found for (found,) in self._connection.execute(statement, arguments)}

    def _digest(self, table: str) -> str:
        total = hashlib.sha256()
        with self._connection.cursor() as cursor, cursor.copy(_statement("in_order", table=table)) as copy:
            for block in copy:
                total.update(block)
        return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Database:
    """Where the tables are: a server, and a schema in it."""

    address: str
    schema: str = "iccm"

    def __post_init__(self) -> None:
        if len(self.schema) > LONGEST_SCHEMA:
            raise BadInput(f"schema {self.schema!r} is too long", f"use at most {LONGEST_SCHEMA} characters")

    @contextmanager
    def tables(self) -> Iterator[Tables]:
        """The tables in use, made when there are none. Tables of another version of ICCM are BadInput."""
        with self._connection(self.schema) as connection:
            tables = Tables(connection, self.schema)
            with tables.transaction():
                found = connection.execute(_statement("version"), [_quoted(self.schema)]).fetchone()
                if found is None or found == (None,):
                    _create(connection, self.schema)
                elif found != (VERSION,):
                    raise BadInput(f"the tables in schema {self.schema} are of another version", "run `iccm rebuild`")
            yield tables

    @contextmanager
    def fresh_tables(self) -> Iterator[Tables]:
        """Empty tables beside those in use, for one rebuild at a time."""
        schema = f"{self.schema}_rebuilding"
        with self._connection(schema) as connection:
            if connection.execute(_statement("try_hold_for_session"), [schema]).fetchone() != (True,):
                raise Busy(f"another rebuild of schema {self.schema} is running", "wait until it is done")
            with connection.transaction():
                connection.execute(_drop(schema))
                _create(connection, schema)
            yield Tables(connection, schema)

    @contextmanager
    def _connection(self, schema: str) -> Iterator[psycopg.Connection]:
        with _translated(self.address), _open(self.address) as connection:
            _prepare(connection, schema)
            yield connection


class _NulSafe(StrDumper):
    """PostgreSQL's text holds every character but NUL; a model may write it all the same. Its picture stands for it."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\x00", "\u2400") if "\x00" in obj else obj)


def _open(address: str) -> psycopg.Connection:
    try:
        connection = psycopg.connect(
            address, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="iccm projection"
        )
    except psycopg.ProgrammingError:
        raise BadInput(
            f"{without_password(address)} is not a PostgreSQL connection string", "set ICCM_POSTGRES to a valid one"
        ) from None
    connection.adapters.register_dumper(str, _NulSafe)
    return connection


def _prepare(connection: psycopg.Connection, schema: str) -> None:
    connection.execute("SET synchronous_commit = off")
    connection.execute("SET client_min_messages = warning")
    with connection.transaction():
        connection.execute(_statement("hold"), ["extension"])
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public")
    [(extension,)] = connection.execute(_statement("extension_schema")).fetchall()
    connection.execute(SQL("SET search_path = {}, {}").format(Identifier(schema), Identifier(extension)))


def _create(connection: psycopg.Connection, schema: str) -> None:
    connection.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(schema)))
    connection.execute(SQL(SCHEMA))
    connection.execute(SQL("COMMENT ON SCHEMA {} IS {}").format(Identifier(schema), VERSION))


@contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except (errors.FeatureNotSupported, errors.UndefinedFile, errors.InsufficientPrivilege) as lacking:
        raise BadInput(
            f"PostgreSQL at {without_password(address)} cannot hold the tables: {lacking}".strip(),
            "install pgvector there, and let this user create schemas and the extension",
        ) from lacking
    except (psycopg.OperationalError, psycopg.InterfaceError) as away:
        raise ServiceUnavailable(
            f"PostgreSQL at {without_password(address)} is away: {without_password(str(away)).strip()}",
            "start it with `iccm up`, or set ICCM_POSTGRES to one that runs",
        ) from away


def _by_shape(rows: Sequence[tuple[str, Row]]) -> dict[tuple[str, tuple[str, ...]], list[list[object]]]:
    shapes: dict[tuple[str, tuple[str, ...]], list[list[object]]] = defaultdict(list)
    for table, row in rows:
        shapes[table, tuple(row)].append(list(row.values()))
    return shapes


def _drop(schema: str) -> Composed:
    return SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema))


def _rename(schema: str, name: str) -> Composed:
    return SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(schema), Identifier(name))


def _quoted(schema: str) -> str:
    return Identifier(schema).as_string()


def _parked_row(parked: Parked) -> dict[str, str | int | bytes | None]:
    table, missing_id = parked.missing or (None, None)
    names = ("topic", "partition", "offset", "table", "fact_id", "cause", "frame")
    return {**{name: getattr(parked, name) for name in names}, "missing_table": table, "missing_id": missing_id}


@cache
def _statements() -> dict[str, str]:
    text = Path(__file__).with_name("projection.sql").read_text()
    named = re.findall(r"^-- name: (\w+)\n(.*?)(?=^-- name:|\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: body.strip() for name, body in named}


@cache
def _statement(name: str, **identifiers: str) -> Composed:
    return SQL(_statements()[name]).format(**{key: Identifier(value) for key, value in identifiers.items()})
