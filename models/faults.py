"""What an error says is at fault: what was given, the environment, or ourselves. The one place that reads it.

*Unfit is not wrong* (riverqueue/river #1225, coder/coder #5370): a read-only session, a full disk, too many connections
or too few descriptors say nothing about the work or its output. Such an error is waited out, on another connection
where there is one. Bad content is set aside, since no second try would change it. Our own faults are loud.

PostgreSQL says it by SQLSTATE (its manual, Appendix A), the system by errno. An error with neither is judged by its
type: psycopg2 knows no SQLSTATE of a connection that was refused, nor of what it refuses to send.
"""

import errno
import socket
import sys
from collections.abc import Iterator
from enum import StrEnum

from reprieve.models.errors import InvalidBlock, InvalidChunk


class Fault(StrEnum):
    """What is at fault, and so what to do."""

    CONTENT = "content"
    """What was given can never be taken: set it aside, and name it."""
    ENVIRONMENT = "environment"
    """The system around us is unfit just now: wait, and try again."""
    OURS = "ours"
    """A mistake in this program or in how it was set up: say so, loudly."""


#: SQLSTATE classes, longest prefix first wins. A class that is not here is ours.
_BY_SQLSTATE = {
    "08": Fault.ENVIRONMENT,  # connection exception
    "22": Fault.CONTENT,  # data exception
    "23": Fault.CONTENT,  # integrity constraint violation
    "25006": Fault.ENVIRONMENT,  # read-only transaction: a replica, or a switch-over under way
    "25P03": Fault.ENVIRONMENT,  # idle in transaction for too long: this process was stopped for a while
    "25P04": Fault.ENVIRONMENT,  # transaction for too long: likewise
    "28": Fault.ENVIRONMENT,  # invalid authorization: a password that is being changed
    "40": Fault.ENVIRONMENT,  # transaction rollback: serialization, deadlock
    "53": Fault.ENVIRONMENT,  # insufficient resources: disk, memory, connections
    "54": Fault.CONTENT,  # program limit exceeded: a value too large to be indexed
    "55": Fault.ENVIRONMENT,  # object not in prerequisite state: a lock that was not to be had
    "57": Fault.ENVIRONMENT,  # operator intervention: shutting down, starting up, a statement cancelled
    "58": Fault.ENVIRONMENT,  # system error: I/O
    "72": Fault.ENVIRONMENT,  # snapshot too old
    "F0": Fault.ENVIRONMENT,  # the server's configuration file
    "XX": Fault.ENVIRONMENT,  # the server's own internal errors, and damaged data
}

_UNFIT_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        *("EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ENOLCK", "EBUSY", "ETXTBSY"),
        *("EAGAIN", "EINTR", "ETIMEDOUT", "EPIPE", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENOTCONN"),
        *("EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN", "ENETRESET", "EADDRNOTAVAIL", "ENOBUFS"),
    )
    if hasattr(errno, name)
)

#: Errors of the clients of Redis and of brokers, by name, so that this module need not import those libraries.
_UNFIT_NAMES = frozenset(
    (
        *("ConnectionError", "TimeoutError", "BusyLoadingError", "ReadOnlyError", "OutOfMemoryError"),
        *("ClusterDownError", "MasterNotFoundError", "MaxConnectionsError", "OperationalError"),
        "RecoverableConnectionError",
    )
)

#: Redis says in the first word what its clients have no type for: a disk that is full, replicas that are missing.
_UNFIT_REDIS = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "READONLY", "OOM")

#: Of these SQLSTATEs the session is of no use any more …
_LOST_SESSION = ("08", "25006", "25P03", "25P04", "57P")
#: … and of these, nor are the others of the pool: the server is going away, or is not the primary any more.
_LOST_SERVER = ("08", "25006", "57P01", "57P02", "57P03", "57P04")

_SENTENCES = {
    "25006": "The database is read-only",
    "53100": "The database's disk is full",
    "53200": "The database is out of memory",
    "53300": "The database has no connection left",
    "55P03": "Another transaction holds what was asked for, and has not ended",
    "57P01": "The database is shutting down",
    "57P02": "The database is shutting down",
    "57P03": "The database is starting up",
}

#: What to say of a database that is not in the form that this version expects, and what to do …
NOT_CURRENT = "The database is not in the form that this version expects; run `reprieve migrate`."
#: … which a table, column or function that is not there shows.
_NOT_THERE = ("42P01", "42703", "42883")


def fault_of(error: BaseException) -> Fault:
    """What is at fault, by this error or by what it says caused it."""
    try:
        found = (_by_sqlstate(one) or _by_errno(one) or _by_type(one) for one in _chain(error))
        return next((fault for fault in found if fault is not None), Fault.OURS)
    except Exception:  # A plug-in's error may be of any kind: one that cannot even be read is nobody else's fault.
        return Fault.OURS


def is_unfit(error: BaseException) -> bool:
    """Whether the environment is at fault, so that waiting is the answer."""
    return fault_of(error) is Fault.ENVIRONMENT


def sqlstate_of(error: BaseException) -> str | None:
    """The five characters in which PostgreSQL says what happened; None where it said nothing."""
    for one in _chain(error):
        state = _sqlstate(one)
        if state is not None:
            return state
    return None


def is_row_held(error: BaseException) -> bool:
    """Whether another transaction holds what was to be written, for longer than we wait: the rest can be written."""
    return sqlstate_of(error) == "55P03"


def ends_session(error: BaseException) -> bool:
    """Whether the session in which this happened is to be given up; the next one may be on another server."""
    return (sqlstate_of(error) or "").startswith(_LOST_SESSION)


def is_database_away(error: BaseException) -> bool:
    """Whether nothing else could be asked of the database just now, either: it was not reached, or goes away."""
    return ends_session(error) or (sqlstate_of(error) is None and is_unfit(error))


def ends_all_sessions(error: BaseException) -> bool:
    """Whether the other sessions with that server are to be given up as well."""
    return (sqlstate_of(error) or "").startswith(_LOST_SERVER)


def unfit_database(error: BaseException) -> str:
    """What a database that is unfit just now suffers from, as a sentence without its full stop."""
    return _SENTENCES.get(sqlstate_of(error) or "", "The database does not answer")


def database_trouble(error: BaseException) -> str | None:
    """What is wrong with a database that raised this, in a sentence; None for a bug in Reprieve."""
    if is_unfit(error) and "certificate" in str(error):
        return "The database's certificate is not to be trusted: name its authority by sslrootcert=FILE in the URL."
    if is_unfit(error):
        return f"{unfit_database(error)}."
    return NOT_CURRENT if sqlstate_of(error) in _NOT_THERE else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what a library has wrapped in it, and what it was raised from."""
    seen: set[int] = set()
    following: list[BaseException] = [error]
    while following:
        one = following.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            # SQLAlchemy names it `orig`, urllib `reason` (which others use for text).
            wrapped = (getattr(one, "orig", None), getattr(one, "reason", None), one.__cause__)
            following += [error for error in wrapped if isinstance(error, BaseException)]


def _sqlstate(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def _by_sqlstate(error: BaseException) -> Fault | None:
    state = _sqlstate(error) or _sqlstate(getattr(error, "orig", None) or error)
    if state is None:
        return None
    return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2], Fault.OURS)


def _by_errno(error: BaseException) -> Fault | None:
    if isinstance(error, socket.gaierror):  # Numbers of its own: a name that is not to be resolved just now.
        return Fault.ENVIRONMENT
    return Fault.ENVIRONMENT if isinstance(error, OSError) and error.errno in _UNFIT_ERRNOS else None


def _by_type(error: BaseException) -> Fault | None:
    return _by_type_of_sqlalchemy(error) or _by_type_of_others(error)


def _by_type_of_sqlalchemy(error: BaseException) -> Fault | None:
    exc = sys.modules.get("sqlalchemy.exc")
    if exc is None:  # A client that does without it has no such error.
        return None
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return Fault.ENVIRONMENT
    if isinstance(error, exc.DataError | exc.IntegrityError):
        return Fault.CONTENT
    if isinstance(error, exc.ProgrammingError | exc.NotSupportedError):
        return Fault.OURS
    # PostgreSQL said nothing: it was not reached, or the connection was lost on the way.
    if isinstance(error, exc.DatabaseError | exc.InterfaceError | exc.TimeoutError | exc.DisconnectionError):
        return Fault.ENVIRONMENT
    return None


def _by_type_of_others(error: BaseException) -> Fault | None:
    if isinstance(error, UnicodeError | InvalidBlock | InvalidChunk) or _is_nul_in_text(error):
        return Fault.CONTENT
    if isinstance(error, MemoryError | ConnectionError | TimeoutError):
        return Fault.ENVIRONMENT
    names = {base.__name__ for base in type(error).__mro__}
    if names & _UNFIT_NAMES or ("ResponseError" in names and str(error).startswith(_UNFIT_REDIS)):
        return Fault.ENVIRONMENT
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return Fault.ENVIRONMENT
    return None


def _is_nul_in_text(error: BaseException) -> bool:
    """What psycopg2 says of text with a NUL, without a type of its own."""
    return isinstance(error, ValueError) and "cannot contain NUL" in str(error)
