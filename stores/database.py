"""The connection to PostgreSQL, whose clock is the only one that decides anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

#: What a database does that is away, restarting, or choosing a victim among deadlocked transactions.
TRANSIENT = (OperationalError, InterfaceError)

#: Seconds to wait for a connection, and for the server's word on data sent, before giving up on it.
CONNECT_TIMEOUT = 5
#: Milliseconds after which PostgreSQL ends a statement of ours: a hung one would hold up every run of a worker.
STATEMENT_TIMEOUT_MS = 30_000
#: The same for waiting for a row that another transaction holds …
LOCK_TIMEOUT_MS = 5_000
#: … and for a transaction of ours that does nothing: a stopped worker must not hold its rows for ever.
IDLE_TRANSACTION_TIMEOUT_MS = 120_000

#: What each connection asks of its server as it begins; a pooler may not hand it on.
SERVER_OPTIONS = {
    "statement_timeout": STATEMENT_TIMEOUT_MS,
    "lock_timeout": LOCK_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": IDLE_TRANSACTION_TIMEOUT_MS,
    "timezone": "UTC",
}


class Database:
    """An engine and the three ways in which this project uses one. Opens nothing until it is used."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=10,
            pool_pre_ping=True,
            # An error that is logged quotes no parameters: they may be a run's output, or its environment.
            hide_parameters=True,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT,
                "options": " ".join(f"-c {name}={value}" for name, value in SERVER_OPTIONS.items()),
                "application_name": "reprieve",
                "tcp_user_timeout": CONNECT_TIMEOUT * 1000,
                "keepalives_idle": 30,
            },
        )

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def single_flight(self, name: str) -> Iterator[bool]:
        """True for one block of this name at a time, on whatever server; False for every other.

        The lock belongs to a transaction, so it is gone with the connection of a block that died, and it works through
        a transaction pooler. The transaction may be idle for as long as the block takes: it holds no row.
        """
        with self.begin() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            query = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
            yield bool(connection.execute(query, {"name": name}).scalar())

    @contextmanager
    def session(self) -> Iterator[Session]:
        """An ORM session for reading; what it loads stays usable after the block."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def now(self) -> datetime:
        """The database's clock."""
        with self.begin() as connection:
            return clock(connection)

    def dispose(self) -> None:
        self.engine.dispose()


def clock(connection: Connection) -> datetime:
    """The database's clock, as seen from inside a transaction; it moves on while the transaction runs."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now
