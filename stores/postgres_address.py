"""The address of PostgreSQL: what its URL asks for, what each of our connections is made with, and how one is made.

Needs psycopg2 alone: a service that only asks for runs, and a command that lists them, start without SQLAlchemy.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import psycopg2
from psycopg2.extensions import parse_dsn

from reprieve.models.errors import SettingsError
from reprieve.stores import tls
from reprieve.stores.statements import quoted
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
    # A statement sees what was committed before it: what is counted under a lock is what its last holder left.
    "default_transaction_isolation": "read committed",
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
#: What a schema may be called.
A_SCHEMA = "give a name of 63 bytes at most, without a comma, not pg_… or $…"


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """A database, and the schema that all tables are in, where the URL names one."""

    schema: str | None
    may_be_plain: bool
    arguments: Mapping[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError, naming what would work, for a URL that says what cannot be heeded."""
        read = Url.parse(url)
        schema, own = connect_arguments(read)
        named = {"user": read.user, "password": read.password, "dbname": read.path or None}
        asked = read.without(("options", "search_path")).asked
        return cls(schema, tls.may_be_plain(read), {**_given(named), **asked, **_hosts(read), **own})

    def connect(self) -> Any:
        """A new connection of psycopg2; raises its errors, and `SettingsError` where a pooler drops the schema."""
        try:
            connection = psycopg2.connect(**self.arguments)
        except psycopg2.OperationalError as error:
            # libpq has no mode for it: verify what certificate there is, and do without where there is no TLS at all.
            if not self.may_be_plain or "server does not support SSL" not in str(error):
                raise
            connection = psycopg2.connect(**{**self.arguments, "sslmode": "disable"})
        if self.schema is not None:
            self._refuse_another_schema(connection)
        return connection

    def _refuse_another_schema(self, connection: Any) -> None:
        """A pooler may keep the schema from the server: tables would be made, and found, in another one silently."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('search_path')")
            there = cursor.fetchone()[0]
        connection.rollback()
        if _identifier(there) != self.schema:
            connection.close()
            raise SettingsError(
                f"The settings ask for the schema {self.schema}, and sessions have the search_path {there}: does "
                "a pooler drop it? ALTER ROLE … SET search_path sets it where no pooler can."
            )


def _given(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value is not None}


def _hosts(url: Url) -> dict[str, str]:
    """The hosts of a URL as libpq has them: several, or a socket's folder; in the query, too, they may have ports."""
    hosts = url.hosts or tuple(_host_and_port(one) for one in url.asked.get("host", "").split(",") if one)
    if not hosts:
        return {}
    ports = ",".join(str(port or "") for _, port in hosts)
    return {"host": ",".join(host for host, _ in hosts)} | ({"port": ports} if ports.strip(",") else {})


def _host_and_port(text: str) -> tuple[str, int | None]:
    named = re.fullmatch(r"([a-zA-Z0-9.-]+):(\d{1,5})", text)
    return (named[1], int(named[2])) if named else (text, None)


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
    return schema, own | tls.for_postgres(url)


def can_be_ours(schema: str) -> bool:
    """Whether our tables can be in a schema of this name: not the server's own, nor what a path reads otherwise."""
    reserved = schema.startswith(("pg_", "$")) or schema == "information_schema"
    return 0 < len(schema.encode()) <= 63 and not reserved and "," not in schema and "\0" not in schema


def in_schema(url: Url, schema: str) -> Url:
    """The URL of the same database with all tables in this schema.

    Raises ValueError, naming what would work, for a URL that names another one.
    """
    named, _ = connect_arguments(url)
    if named not in (None, schema):
        raise ValueError("names another schema than REPRIEVE_DATABASE_SCHEMA; leave one out")
    return url if named else replace(url, query=(*url.query, ("search_path", quoted(schema))))


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
