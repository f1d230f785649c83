"""What an adapter is, and what it is given: the two protocols between Reprieve and whatever does the work."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeGuard, runtime_checkable
from uuid import UUID

from reprieve.adapters.kinds import ConfigModel, Kind
from reprieve.models.status import Probe
from reprieve.models.work import Outcome, Work

__all__ = [
    "Adapter",
    "AnyAdapter",
    "AsyncAdapter",
    "AsyncAttaching",
    "AsyncContext",
    "Attaching",
    "Attempt",
    "ConfigModel",
    "Context",
    "Keeping",
    "Outcome",
    "Probe",
    "Probing",
    "Work",
    "follows_without_a_thread",
]

#: A run, and the number of its attempt.
Attempt = tuple[UUID, int]


class Context(Protocol):
    """A run's way back to Reprieve. Thread-safe; no call waits for the network, but for the two that record."""

    run_id: UUID
    attempt: int

    cursor: str | None
    """Where to read on: the cursor of the last chunk that the store has. None at the start, or when none was given."""

    def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
        """Hand over output. `cursor` is the adapter's own place in its source after this chunk, as short text.

        It is a position in the whole source, all of its streams: the next follower gets it and reads on from there.
        Blocks while the shipper's buffer is full, so that a pipe pushes back; never drops. Raises `InvalidChunk`, and
        `Released` as every call here does.
        """
        ...

    def on_spawn(self, pid: int, process_group_id: int, started_at: float, marker: str = "") -> None:
        """In-process work: record the child (start time in seconds since boot) before it may begin.

        `marker` is what all that descends from it inherits, if anything. From here on the worker vouches for the run
        for as long as that process lives. Raises `Superseded`.
        """
        ...

    def on_dispatch(self, handle: dict[str, Any], host: str | None = None) -> None:
        """Out-of-process work: record the handle that `probe` and `terminate` get, before the work may begin.

        `host` names the one host that can act on the handle; None when any can. Call it again when the handle should
        say more: above all, once the platform has taken the work, what it gave for it (an id of its own). Until that is
        recorded, `probe` must not say DEAD of work that is not there, since it may not have been created yet; call
        `heartbeat` while you wait to create it. A handle that is recorded again replaces the one before. Raises
        `Superseded`.
        """
        ...

    def note(self, sentence: str) -> None:
        """Record a sentence for people about this attempt that is neither output nor its end: why it cannot begin, say.

        It becomes an event of the run; repeats of a sentence are recorded once. Best effort: a failure is logged.
        """
        ...

    def report(
        self,
        *,
        progress: float | None = None,
        say: str | None = None,
        result: Any = None,
        usage: Mapping[str, float] | None = None,
        number: int | None = None,
    ) -> None:
        """What the work says of itself: how far it is (0 to 1), a sentence, a result (JSON, 64 KiB), what it has used.

        Progress, sentence and result replace those before; `usage`, numbers by name, is added to what was used before.
        Costs next to nothing, and is no proof of life: it is written once in ten seconds, and with the end. `number` is
        the report's own among those of the attempt, where they have numbers that grow: one that is not greater than
        `reported` was taken before, and changes nothing. Raises `InvalidRequest`, which says what is wrong.
        """
        ...

    @property
    def reported(self) -> int:
        """The number of the last report that was taken, also by those who followed the work before; 0 for none."""
        ...

    def heartbeat(self) -> None:
        """The work was seen alive just now. Costs nothing: call it as often as you look."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether the run has ended without this adapter (cancelled, reaped, timed out): end the work and return."""
        ...

    def wait(self, seconds: float) -> bool:
        """Sleep, but wake at once when told to stop; returns `stopping`."""
        ...


class AsyncContext(Protocol):
    """The same for an adapter that follows without a thread: what may wait is awaited.

    All of it is called from the adapter's own event loop. For one run, one `on_log` is called after the other; all else
    may be called while one waits for room, or while a `wait` is under way: it returns as soon as it is told to stop.
    """

    run_id: UUID
    attempt: int
    cursor: str | None

    async def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
        """As `Context.on_log`. Goes on while the spool has room; else it returns when there is some again."""
        ...

    async def on_spawn(self, pid: int, process_group_id: int, started_at: float, marker: str = "") -> None: ...

    async def on_dispatch(self, handle: dict[str, Any], host: str | None = None) -> None: ...

    async def note(self, sentence: str) -> None: ...

    def report(
        self,
        *,
        progress: float | None = None,
        say: str | None = None,
        result: Any = None,
        usage: Mapping[str, float] | None = None,
        number: int | None = None,
    ) -> None: ...

    @property
    def reported(self) -> int: ...

    def heartbeat(self) -> None: ...

    @property
    def stopping(self) -> bool: ...

    async def wait(self, seconds: float) -> bool: ...


class _Ending(Kind, Protocol):
    def __init__(self, folder: Path, host: str) -> None: ...

    def terminate(self, handle: dict[str, Any]) -> None:
        """End the work of one attempt and return when it is gone. Idempotent; touches no other attempt.

        The handle is the one given to `on_dispatch`, or the process given to `on_spawn`. Raises when the work
        cannot be confirmed gone; it is then asked again. Called on a thread that may block, in either kind of adapter.
        """
        ...


class Adapter(_Ending, Protocol):
    """How one kind of work is started, followed and ended, on a thread for each run that is followed.

    Third parties register a class in the entry-point group `reprieve.adapters`. It is built once per process as
    `AdapterClass(folder, host)`: a folder of its own on this host, and this host's name. Each of its runs takes one of
    the worker's places, and no more threads than there are places are ever used.
    """

    def execute(self, run: Work, context: Context) -> Outcome:
        """Start the work, follow it to its end, and say how it ended.

        Out-of-process work that has vanished without a result is not for the adapter to bury: it stops its
        heartbeats and waits to be told to stop; the reaper decides.
        """
        ...


class AsyncAdapter(_Ending, Protocol):
    """The same without a thread: all runs of one adapter are followed on one event loop, which must never be blocked.

    `own_limit` is how many of its runs a worker follows at once, beside its places, where they use nothing of its host
    but a connection. None: each takes a place, as a command of this host does.
    """

    own_limit: ClassVar[int | None]

    async def execute(self, run: Work, context: AsyncContext) -> Outcome:
        """As `Adapter.execute`."""
        ...


#: Either kind.
AnyAdapter = Adapter | AsyncAdapter


def follows_without_a_thread(adapter: object) -> TypeGuard[AsyncAdapter]:
    """Whether an adapter, or its class, is of the kind whose `execute` is a coroutine."""
    return inspect.iscoroutinefunction(getattr(adapter, "execute", None))


@runtime_checkable
class Attaching(Protocol):
    """What an adapter of out-of-process work adds: another worker may follow what one has started."""

    def attach(self, run: Work, handle: dict[str, Any], context: Context) -> Outcome:
        """Follow work that is under way, from `context.cursor` on, to its end, and say how it ended.

        Work that has ended in the meantime is read to its end, and its result given. Work of which the handle does not
        say that it was created is created if it is not there. Work that has vanished is not for the adapter to bury, as
        in `execute`. Raises `Released` (from the context) when this worker is to leave it.
        """
        ...


@runtime_checkable
class AsyncAttaching(Protocol):
    """The same of an adapter that follows without a thread."""

    async def attach(self, run: Work, handle: dict[str, Any], context: AsyncContext) -> Outcome:
        """As `Attaching.attach`."""
        ...


@runtime_checkable
class Probing(Protocol):
    """What an adapter adds when its platform can be asked."""

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        """For each handle, whether its work is alive; any doubt is UNKNOWN, and so is work not known to be created."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """What an adapter adds when it keeps something for each attempt in its folder: files that it reads output from."""

    def kept(self) -> list[Attempt]:
        """The attempts of which something is kept on this host."""
        ...

    def forget(self, attempt: Attempt) -> None:
        """Remove what is kept of an attempt, whose log is closed. Idempotent; another worker may do so at once."""
        ...
