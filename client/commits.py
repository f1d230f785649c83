"""What is to follow the commit of a SQLAlchemy Connection's transaction.

SQLAlchemy tells of each savepoint and rollback, and that a commit is about to be made, but nothing once it is made: a
Session's `after_commit` comes with each savepoint too, and while the Connection that the Session was given is still to
be committed or rolled back by whoever gave it. So the commit of this one Connection object is wrapped. A two-phase
commit is not seen.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

Callback = Callable[[], object]


class AfterCommit:
    """The callbacks of one Connection's open transaction. A savepoint that is rolled back takes its own with it.

    Savepoints are taken to end in the order in which they are nested. Of one that is rolled back while another is open
    in it, which SQLAlchemy warns of, callbacks may be left: of ours, each sends a message, which is only a hint.
    """

    def __init__(self) -> None:
        self._callbacks: list[Callback] = []
        #: How many callbacks there were at each open savepoint. One that was open before all callbacks has no mark.
        self._marks: list[int] = []

    def add(self, callback: Callback) -> None:
        self._callbacks.append(callback)

    def savepoint(self) -> None:
        self._marks.append(len(self._callbacks))

    def released(self) -> None:
        if self._marks:
            self._marks.pop()

    def rolled_back_to_savepoint(self) -> None:
        del self._callbacks[self._marks.pop() if self._marks else 0 :]

    def forget(self) -> None:
        self._callbacks.clear()
        self._marks.clear()

    def committed(self) -> None:
        callbacks = list(self._callbacks)
        self.forget()
        if callbacks:
            off_the_loop(lambda: [callback() for callback in callbacks])


def off_the_loop(callback: Callback) -> None:
    """Call this on a thread, where this one turns an event loop: a broker that is away would hold that up."""
    asyncio = sys.modules.get("asyncio")
    loop = asyncio and asyncio._get_running_loop()
    if loop is None:
        callback()
        return
    with suppress(RuntimeError):  # The loop is being closed: the sweep sends the message.
        loop.run_in_executor(None, callback)


_of_connections: "WeakKeyDictionary[Any, AfterCommit]" = WeakKeyDictionary()


def after_commit_of(connection: Any) -> AfterCommit:
    """What is to follow the commit of this Connection's transaction; from the first call on, it is watched."""
    known = _of_connections.get(connection)
    if known is None:
        known = _of_connections[connection] = AfterCommit()
        _watch(connection, known)
    return known


def _watch(connection: Any, after: AfterCommit) -> None:
    listen = sys.modules["sqlalchemy"].event.listen
    for event, what in (
        ("savepoint", after.savepoint),
        ("release_savepoint", after.released),
        ("rollback_savepoint", after.rolled_back_to_savepoint),
        ("rollback", after.forget),
        ("rollback_twophase", after.forget),
        ("commit_twophase", after.forget),
    ):
        listen(connection, event, _without_arguments(what))
    # A reference of its own to itself would keep the Connection from its pool, when nobody closes it.
    this, commit = ref(connection), type(connection)._commit_impl

    def commit_and_tell() -> None:
        try:
            commit(this())
        except BaseException:
            after.forget()
            raise
        after.committed()

    connection._commit_impl = commit_and_tell


def _without_arguments(what: Callable[[], None]) -> Callable[..., None]:
    """A listener to any event, whatever that tells."""
    return lambda *_: what()
