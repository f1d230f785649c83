"""The caller's transaction: a run is there if and only if it commits, and its message goes out after that.

`within` is a SQLAlchemy `Session` or `Connection`, or a connection of Django. Neither library is imported here: whoever
hands one of these over has imported it. What is asked of a caller's transaction cannot fail, since a failed statement
would abort it, and our tables are named with their schema, since its search path is its own.

Not promised: the message itself. Where a commit is not seen (a two-phase one, Django's manual transactions, a process
that dies in between) or where the broker is down, the sweep sends it.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from reprieve.client.transactions import Joined, OfDjango, OfSqlAlchemy
from reprieve.models.errors import InvalidRequest
from reprieve.stores.location import READ, WRITTEN, Location, is_at, our_location
from reprieve.stores.statements import Executor, qualified, quoted

TAKEN = "give a SQLAlchemy Session or Connection, or a connection of Django"
ASYNCHRONOUS = ("AsyncSession", "AsyncConnection", "async_scoped_session")


def join(within: object, ours: Executor) -> Joined:
    """What runs statements in the caller's transaction; `ours` runs them in our own database.

    Raises `InvalidRequest`, with a sentence and with nothing written, for what is no transaction in that database.
    """
    transaction = _transaction_of(within)
    there = our_location(ours)
    if transaction.known.get(Location) != there:
        there = transaction.known[Location] = _checked(transaction, ours, there)
    transaction.schema = there.schema
    return transaction


def runner_of(within: object) -> Callable[..., Awaitable[Any]]:
    """What calls a function with the synchronous side of an asynchronous session or connection.

    Raises `InvalidRequest` for any other transaction: its driver would block the loop.
    """
    if _is(within, "sqlalchemy.ext.asyncio", "async_scoped_session"):
        within = within()  # type: ignore[operator]
    if _is(within, "sqlalchemy.ext.asyncio", "AsyncSession", "AsyncConnection"):
        return within.run_sync  # type: ignore[attr-defined, no-any-return]
    raise InvalidRequest(
        f"within is of type {type(within).__name__}, and would block the loop: give an AsyncSession or AsyncConnection "
        "of SQLAlchemy, or call reprieve.enqueue_run on a thread (sync_to_async in Django)."
    )


def _checked(transaction: Joined, ours: Executor, there: Location) -> Location:
    """Where our tables are, for a transaction that may add runs to them; raises `InvalidRequest` for any other."""
    is_there, role = is_at(transaction, there)
    if not is_there:
        # Our server may have been started again since it was asked.
        there = our_location(ours, anew=True)
        is_there, role = is_at(transaction, there)
    if not is_there:
        raise InvalidRequest(
            "within is a transaction in another database than Reprieve's, and a run can be committed only with what is "
            "in its own. Keep Reprieve's tables in a schema of that database (REPRIEVE_DATABASE_SCHEMA), or "
            "enqueue after the commit."
        )
    if role is not None:
        raise InvalidRequest(f"within is signed in as {role}, who may not add runs: {_grants(there.schema, role)}.")
    return there


def _grants(schema: str, role: str) -> str:
    """What lets a role add runs."""
    read, written = (", ".join(qualified(schema, table) for table in tables) for tables in (READ, WRITTEN))
    to = f"TO {quoted(role)}"
    return f"GRANT USAGE ON SCHEMA {quoted(schema)} {to}; GRANT SELECT ON {read} {to}; GRANT INSERT ON {written} {to}"


def _transaction_of(within: Any) -> Joined:
    if _is(within, "sqlalchemy.ext.asyncio", *ASYNCHRONOUS):
        raise InvalidRequest(f"within is an {type(within).__name__}: await reprieve.aio.enqueue_run(…, within=…).")
    if _is(within, "sqlalchemy.orm", "scoped_session"):
        within = within()
    if _is(within, "sqlalchemy.orm", "Session"):
        within = _connection_of(within)
    if _is(within, "sqlalchemy", "Connection"):
        return OfSqlAlchemy(within)
    if _is(within, "django.utils.connection", "ConnectionProxy"):
        within = sys.modules["django.db"].connections[within.alias]
    if _is(within, "django.db.backends.base.base", "BaseDatabaseWrapper"):
        return OfDjango(within)
    raise InvalidRequest(f"within is of type {type(within).__name__}; {TAKEN}.")


def _is(value: object, module: str, *names: str) -> bool:
    """Whether it is of a class of a library, which is looked for only where somebody has imported it."""
    there = sys.modules.get(module)
    return any(isinstance(value, getattr(there, name, ())) for name in names)


def _connection_of(session: Any) -> Any:
    try:
        return session.connection()
    except sys.modules["sqlalchemy.exc"].UnboundExecutionError:
        raise InvalidRequest(
            "within is a Session that chooses its database by what is asked for, and a run is nothing that it knows: "
            "give the connection, session.connection(bind_arguments=…)."
        ) from None
