"""The database of a study: its tables, and how SQLite and PostgreSQL are opened so that a commit is durable."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctsm.errors import CtsmError, MissingExtraError
from ctsm.judging.places import LOGS, is_url

try:
    import sqlalchemy as sa
except ImportError:
    raise MissingExtraError("judge", "a study") from None

TABLES = sa.MetaData()
META = sa.Table(
    "meta",
    TABLES,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("study", sa.Text, nullable=False),  # JSON of the study without its trials
    sa.Column("closed", sa.Text),  # UTC, ISO 8601; null while the study is open
    sa.Column("admin_token", sa.Text),  # SHA-256, as those of the annotators
)
ANNOTATORS = sa.Table(
    "annotators",
    TABLES,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, unique=True),
)
TRIALS = sa.Table(
    "trials",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("annotator", sa.Text, sa.ForeignKey("annotators.name"), nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("pair", sa.Text, nullable=False),
    sa.Column("item", sa.Text, nullable=False),
    sa.Column("catch", sa.Boolean, nullable=False),
    sa.Column("left", sa.Text, nullable=False),
    sa.Column("context", sa.JSON, nullable=False),
    sa.Column("reply_a", sa.Text, nullable=False),
    sa.Column("reply_b", sa.Text, nullable=False),
    sa.UniqueConstraint("annotator", "place"),
)
JUDGEMENTS = sa.Table(
    "judgements",
    TABLES,
    sa.Column("trial", sa.Text, sa.ForeignKey("trials.id"), primary_key=True),
    sa.Column("aspect", sa.Text, primary_key=True),
    sa.Column("verdict", sa.Text, sa.CheckConstraint("verdict IN ('win', 'tie', 'lose')"), nullable=False),
    sa.Column("judged", sa.Text, nullable=False),
)
WITHDRAWN = sa.Table(
    "withdrawn",
    TABLES,
    sa.Column("trial", sa.Text, sa.ForeignKey("trials.id"), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),  # how often the trial was withdrawn before
    sa.Column("aspect", sa.Text, primary_key=True),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("judged", sa.Text, nullable=False),
    sa.Column("withdrawn", sa.Text, nullable=False),
)
BUSY_MS = 10_000
"""How long SQLite waits for another writer."""
WRITING = "ctsm_writing"
"""The execution option of a connection that will write."""


def connect(study: str) -> sa.Engine:
    """Return the engine of a SQLite file or a PostgreSQL URL; nothing is opened yet.

    Raises:
        CtsmError: a URL of another database, or a malformed one.
        MissingExtraError: the driver of PostgreSQL is not installed.
    """
    return _postgresql(study) if is_url(study) else _sqlite(Path(study))


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a transaction that sees one state of the database."""
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a transaction that is on the disk when the block has ended without an error."""
    with engine.connect().execution_options(**{WRITING: True}) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL synchronous_commit TO on"))
        yield connection


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary neighbour that becomes `path` when the block ends, unless something stands there.

    Raises:
        FileExistsError: something stands at `path`; it is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        path.hardlink_to(temporary)  # unlike a rename, never replaces a file
    finally:
        for suffix in ("", *LOGS):
            Path(name + suffix).unlink(missing_ok=True)


def _sqlite(path: Path) -> sa.Engine:
    """Open a file with full synchronisation; `set_write_ahead_log` has made its log write-ahead, for good."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own; `begin` does
        for setting in (f"busy_timeout={BUSY_MS}", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later would fail when another writes in between.
        immediate = connection.get_execution_options().get(WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def set_write_ahead_log(path: Path) -> None:
    """Let readers and a writer of a SQLite file not wait for each other; the file remembers it."""
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _postgresql(study: str) -> sa.Engine:
    try:
        url = sa.make_url(study)
    except (sa.exc.ArgumentError, ValueError):
        raise CtsmError("STUDY: not a database URL; write postgresql://USER@HOST/DATABASE.") from None
    if url.drivername not in ("postgresql", "postgres"):
        raise CtsmError(
            f"{url.render_as_string()}: studies are kept in a SQLite file (give its path) or in PostgreSQL "
            "(postgresql://USER@HOST/DATABASE)."
        )
    try:
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except ImportError:
        raise MissingExtraError("postgresql", "a study in PostgreSQL") from None
