"""The connection to PostgreSQL, whose clock is the only one that decides anything."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn
from sqlalchemy import Connection, Engine, Row, TextClause, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import Session

from reprieve.models.errors import SettingsError
from reprieve.models.faults import ends_all_sessions, ends_session
from reprieve.stores import tls
from reprieve.stores.urls import Url

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

#: Milliseconds after which PostgreSQL cancels a statement: a hung one would hold up every run of a worker.
STATEMENT_TIMEOUT_MS = 30_000
#: The same for waiting for a row that another transaction holds …
LOCK_TIMEOUT_MS = 5_000
#: … and for an idle transaction: a stopped worker must not hold its row locks for ever.
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


#: What each connection is made with; no address may say otherwise.
CLIENT_OPTIONS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT,
    "tcp_user_timeout": UNANSWERED_TIMEOUT * 1000,
    **CLIENT_KEEPALIVES,
}
#: What is said elsewhere in a URL than in its query.
_ELSEWHERE = ("user", "password", "dbname", "port")
_OURS = (*CLIENT_OPTIONS, "client_encoding")


class Database:
    """An engine and the five ways in which this project uses one. Opens nothing until it is used.

    A session that cannot write any more (read-only after a switch-over, ended by its server) is dropped by the first
    error that says so, and with it all others of its server: a retry uses another connection.
    """

    def __init__(self, url: str, *, pool_size: int = 5, max_overflow: int = 10) -> None:
        """Raises ValueError, naming what would work, for a URL that says what cannot be heeded."""
        self._url = url
        read = Url.parse(url)
        #: The schema that all tables are in, where the URL names one.
        self.schema, arguments = connect_arguments(read)
        self.engine: Engine = create_engine(
            str(replace(read.without(("options", "search_path")), hosts=() if "host" in arguments else read.hosts)),
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_pre_ping=True,
            # An error that is logged quotes no parameters: they may be a run's output, or its environment.
            hide_parameters=True,
            connect_args=arguments,
        )
        event.listen(self.engine, "handle_error", _drop_what_is_lost)
        if tls.may_be_plain(read):
            event.listen(self.engine, "do_connect", _connect_without_tls_if_there_is_none)
        if self.schema is not None:
            event.listen(self.engine, "connect", self._refuse_another_schema)

    def _refuse_another_schema(self, connection: Any, _: object) -> None:
        """A pooler may keep the schema from the server: tables would be made, and found, in another one silently."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('search_path')")
            there = cursor.fetchone()[0]
        connection.rollback()
        if _identifier(there) != self.schema:
            raise SettingsError(
                f"The settings ask for the schema {self.schema}, and sessions have the search_path {there}: does "
                "a pooler drop it? ALTER ROLE … SET search_path sets it where no pooler can."
            )

    def beside(self, connections: int) -> "Database":
        """The same database over so many connections of its own."""
        return Database(self._url, pool_size=connections, max_overflow=0)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        with self.engine.begin() as connection:
            yield connection

    def run(self, statement: TextClause, values: Mapping[str, Any] | None = None) -> Sequence[Row[Any]]:
        """One statement in a transaction of its own; returns its rows, none for a statement that gives none."""
        with self.begin() as connection:
            result = connection.execute(statement, values)
            return result.all() if result.returns_rows else ()

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


def connect_arguments(url: Url) -> tuple[str | None, dict[str, Any]]:
    """The schema that a URL asks for, and what its connections are made with, beside what it says itself.

    Raises ValueError, naming what would work, for what cannot be heeded.
    """
    asked = url.asked
    for name in asked:
        if name in _OURS or name in _ELSEWHERE:
            where = "is Reprieve's own to set" if name in _OURS else "is said elsewhere in a URL, or by a setting"
            raise ValueError(f"has {name} in its query, which {where}; leave it out")
    url.without(("options", "search_path")).refuse_unknown([name for name in asked if _libpq_knows(name)])
    wanted = _server_options(asked.get("options", ""))
    paths = [path for path in (wanted.pop("search_path", None), asked.get("search_path")) if path]
    schema = _identifier(paths[0]) if paths else None
    if len(set(paths)) > 1 or (paths and schema is None):
        raise ValueError("has a search_path that is not one schema; all tables are in one")
    if schema is not None and not can_be_ours(schema):
        raise ValueError(f"has a search_path that cannot be a schema of Reprieve's: {A_SCHEMA}")
    if taken := sorted(wanted.keys() & SERVER_OPTIONS.keys()):
        raise ValueError(f"sets {', '.join(taken)} by its options, which is Reprieve's own to set; leave it out")
    if schema is not None:
        wanted["search_path"] = quoted(schema)
    options = " ".join(f"-c {name}={_escaped(str(value))}" for name, value in (wanted | SERVER_OPTIONS).items())
    name = asked.get("application_name", "reprieve")
    own = {"application_name": name, "options": options, **CLIENT_OPTIONS}
    return schema, own | _several_hosts(url) | tls.for_postgres(url)


#: What a schema may be called.
A_SCHEMA = "give a name of 63 bytes at most, without a comma, not pg_… or $…"


def can_be_ours(schema: str) -> bool:
    """Whether our tables can be in a schema of this name: the server's own are out, and what a path reads otherwise."""
    reserved = schema.startswith(("pg_", "$")) or schema == "information_schema"
    return 0 < len(schema.encode()) <= 63 and not reserved and "," not in schema and "\0" not in schema


def quoted(name: str) -> str:
    """A name as it stands in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def in_schema(url: Url, schema: str) -> Url:
    """The URL of the same database with all tables in this schema.

    Raises ValueError, naming what would work, for a URL that names another one.
    """
    named, _ = connect_arguments(url)
    if named not in (None, schema):
        raise ValueError("names another schema than REPRIEVE_DATABASE_SCHEMA; leave one out")
    return url if named else replace(url, query=(*url.query, ("search_path", quoted(schema))))


def _several_hosts(url: Url) -> dict[str, str]:
    """Several hosts, or a socket's folder, which SQLAlchemy takes for a name, as libpq has them."""
    if len(url.hosts) < 2 and not any(host.startswith(("/", "@")) for host, _ in url.hosts):
        return {}
    ports = ",".join(str(port or "") for _, port in url.hosts)
    return {"host": ",".join(host for host, _ in url.hosts)} | ({"port": ports} if ports.strip(",") else {})


def _libpq_knows(name: str) -> bool:
    try:
        parse_dsn(f"{name}=1")
    except psycopg2.ProgrammingError:
        return False
    return True


def _server_options(given: str) -> dict[str, Any]:
    """The settings among libpq's `options`: `-c name=value`, `-cname=value` or `--name=value`."""
    words = iter(shlex.split(given))
    found: dict[str, Any] = {}
    for word in words:
        setting = next(words, "") if word == "-c" else word.removeprefix("--" if word.startswith("--") else "-c")
        name, equals, value = setting.partition("=")
        if not (word.startswith(("-c", "--")) and equals and name.strip()):
            raise ValueError("has options that are not of the form -c name=value")
        found[name.strip().lower().replace("-", "_")] = value
    return found


def _identifier(path: str) -> str | None:
    """The one schema of a search path, by its name; None where it is not one, or not that of a schema."""
    name = path.strip()
    if len(name) > 2 and name.startswith('"') and name.endswith('"') and '"' not in name[1:-1].replace('""', ""):
        name = name[1:-1].replace('""', '"')
    elif '"' in name or "," in name:
        return None
    else:
        name = name.lower()
    return name if name and not name.startswith("$") and "," not in name else None


def _escaped(value: str) -> str:
    """A value among libpq's `options`, where a space would end it."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _connect_without_tls_if_there_is_none(
    dialect: Any, _: object, arguments: list[Any], named: Mapping[str, Any]
) -> Any:
    """libpq has no mode for it: verify what certificate there is, and do without where a server has no TLS at all."""
    try:
        return dialect.connect(*arguments, **named)
    except psycopg2.OperationalError as error:
        if "server does not support SSL" not in str(error):
            raise
        return dialect.connect(*arguments, **{**named, "sslmode": "disable"})


def _drop_what_is_lost(context: ExceptionContext) -> None:
    """Have the pool drop a session that is of no use any more, as it does by itself with one that was closed."""
    if ends_session(context.original_exception):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = ends_all_sessions(context.original_exception)
