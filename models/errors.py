"""The errors that callers may want to catch: a small tree. The text of each says what would work."""

import os
from pathlib import Path


class ReprieveError(Exception):
    """The root of the tree: catch it to catch whatever Reprieve refuses."""


class TimingRefused(ReprieveError):
    """Raised when the timings would leave no margin between a late refresh and a dead run."""


class SettingsError(ReprieveError):
    """Raised when a setting is missing or makes no sense; names the setting."""


class NotInstalled(ReprieveError):
    """Raised when something needs a package that is not installed; names the extra that brings it."""


def cannot_be_written(data_dir: Path, error: OSError) -> SettingsError:
    """What to say where the data folder is of no use."""
    what = "is no folder" if isinstance(error, NotADirectoryError | FileExistsError) else "cannot be written"
    why = os.strerror(error.errno) if error.errno else type(error).__name__
    return SettingsError(f"The data folder, {data_dir}, {what} ({why}): set REPRIEVE_DATA_DIR to one that can.")


class UnknownAdapter(ReprieveError):
    """Raised when no installed adapter has the type that was asked for."""


class InvalidRequest(ReprieveError):
    """Raised when a run is asked for with an argument or an adapter's config that cannot work; names the field."""


class IdempotencyConflict(ReprieveError):
    """Raised when an idempotency key comes again with other work than the first time."""


class RunNotFound(ReprieveError):
    """Raised when no run, or more than one, answers to an id or the beginning of one."""


class NoticeNotFound(ReprieveError):
    """Raised when there is no notice, or no rule of notices, of this id or name."""


class NotAllowed(ReprieveError, PermissionError):
    """Raised by a client over HTTP whose token is unknown, or has too small a scope for what it asked."""


class Unavailable(ReprieveError, ConnectionError):
    """Raised by a client that got no answer, or none that says anything, for as long as it tries.

    What it asked may have been done. It can be asked again: an idempotency key gives the same run.
    """


class StillRunning(ReprieveError, TimeoutError):
    """Raised by `wait_for` when the time is over and the run has not ended. The run goes on."""


class InvalidChunk(ReprieveError):
    """Raised in `on_log`, where the mistake is, when a chunk could not be stored; names the argument."""


class InvalidMessage(ReprieveError):
    """Raised when a message from the broker is of no known form. Its text never quotes the payload."""


class InvalidBlock(ReprieveError):
    """Raised when a block of output cannot be decoded: it is kept aside instead. Its text never quotes the payload."""


class LogUnavailable(ReprieveError):
    """Raised when a closed log's archive cannot be read, or is not what was written; names the object."""


class ObjectLost(LogUnavailable):
    """Raised when what a closed log's archive holds is not there, or is not what was written: no second try helps."""


class LogRemoved(ReprieveError):
    """Raised when a log was there and retention has removed it."""


class LogLost(ReprieveError):
    """Raised when a log was there and nothing of it can be read any more, however often it is tried."""


class LeaseLost(ReprieveError):
    """Raised when a process finds that its lease has expired and another process holds it. It stops."""


class Superseded(ReprieveError):
    """Raised when a worker writes for a run that it no longer follows: the run ended, or another worker claimed it."""


class Released(ReprieveError):
    """Raised in a follower of out-of-process work that is to leave it: another worker follows it, or will. Not an end.

    An adapter lets it pass: the work goes on, and is not to be ended.
    """


class WorkerEnds(ReprieveError):
    """Raised when a run is to be followed by a worker that was asked to stop: nothing of it has begun there."""


class OutputNotTaken(ReprieveError, ConnectionError):
    """Raised in `on_log` when this worker cannot take over output for a reason of its own. It says nothing of the work.

    An adapter lets it pass: the work goes on, and is followed again by this worker or another.
    """


class OutsideRoot(ReprieveError):
    """Raised when a path that came from outside would leave the folder that it belongs to."""


class TokenRefused(ReprieveError):
    """Raised when a report from outside does not bear the token of its run; nothing was changed. Quotes no token."""


class NoIdentity(ReprieveError):
    """Raised when a worker cannot have a name: its data folder gives none, or a live worker elsewhere holds it."""
