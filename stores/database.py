"""The connection to PostgreSQL, whose clock is the only one that decides anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import Session

from models.faults import ends_all_sessions, ends_session

#: Seconds to wait for a connection. To make one takes five to seven round trips (TCP, TLS, the password's exchange), so
#: this allows for a link with four seconds of latency; and it is a small part of the time for which a worker may be cut
#: off.
CONNECT_TIMEOUT = 30
#: Seconds for which what was sent may stay unacknowledged before the connection is given up: several retransmissions
#: on such a link, and a network that was cut is noticed long before a run is in danger.
UNANSWERED_TIMEOUT = 30
#: The same while the server owes an answer, and so acknowledges nothing: its TCP is asked after so many seconds of
#: silence, again after so many, and given up after so many questions: 30 seconds as well.
CLIENT_KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}

#: Milliseconds after which PostgreSQL ends a statement of ours: a hung one would hold up every run of a worker.
STATEMENT_TIMEOUT_MS = 30_000
#: The same for waiting for a row that another transaction holds …
LOCK_TIMEOUT_MS = 5_000
#: … and for a transaction of ours that does nothing: a stopped worker must not hold its rows for ever.
IDLE_TRANSACTION_TIMEOUT_MS = 120_000
#: Seconds after which PostgreSQL asks whether a client that is silent is still there, seconds between two questions,
#: and how many stay unanswered before its session ends: within 50 seconds. Its own default is two hours, and for so
#: long a host that was cut off would hold its sessions …
SERVER_KEEPALIVES = {"tcp_keepalives_idle": 20, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
#: … and milliseconds for a client that does not acknowledge what it was sent.
SERVER_UNANSWERED_TIMEOUT_MS = 50_000

#: What each connection asks of its server as it begins; a pooler may not hand it on. The server takes what concerns TCP
#: on a Unix socket too, and does nothing about it: no peer is cut off there.
SERVER_OPTIONS = {
    "statement_timeout": STATEMENT_TIMEOUT_MS,
    "lock_timeout": LOCK_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": IDLE_TRANSACTION_TIMEOUT_MS,
    **SERVER_KEEPALIVES,
    "tcp_user_timeout": SERVER_UNANSWERED_TIMEOUT_MS,
    "timezone": "UTC",
}


class Database:
    """An engine and the four ways in which this project uses one. Opens nothing until it is used.

    A session that cannot write any more (read-only after a switch-over, ended by its server) is dropped by the first
    error that says so, and with it all others of its server: whoever tries again does so on another connection.
    """

    def __init__(self, url: str | URL, *, pool_size: int = 5, max_overflow: int = 10) -> None:
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_pre_ping=True,
            # An error that is logged quotes no parameters: they may be a run's output, or its environment.
            hide_parameters=True,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT,
                "options": " ".join(f"-c {name}={value}" for name, value in SERVER_OPTIONS.items()),
                "application_name": "reprieve",
                "tcp_user_timeout": UNANSWERED_TIMEOUT * 1000,
                **CLIENT_KEEPALIVES,
            },
        )
        event.listen(self.engine, "handle_error", _drop_what_is_lost)

    def beside(self, connections: int) -> "Database":
        """The same database over so many connections of its own."""
        return Database(self.engine.url, pool_size=connections, max_overflow=0)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def at_once(self) -> Iterator[Connection]:
        """A connection on which each statement is a transaction of its own: none is ever left open."""
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """An ORM session for reading; what it loads stays usable after the block."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def now(self) -> datetime:
        """The database's clock."""
        with self.begin() as connection:
            return clock(connection)

    def is_read_only(self) -> bool:
        """Whether the database takes no writes. A session that is left from a time when it took none is dropped."""
        if not self._session_is_read_only():
            return False
        self.engine.dispose()
        return self._session_is_read_only()

    def _session_is_read_only(self) -> bool:
        with self.begin() as connection:
            return bool(connection.execute(text("SELECT current_setting('transaction_read_only')::bool")).scalar())

    def dispose(self) -> None:
        self.engine.dispose()


def clock(connection: Connection) -> datetime:
    """The database's clock, as seen from inside a transaction; it moves on while the transaction runs."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


def _drop_what_is_lost(context: ExceptionContext) -> None:
    """Have the pool drop a session that is of no use any more, as it does by itself with one that was closed."""
    if ends_session(context.original_exception):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = ends_all_sessions(context.original_exception)
