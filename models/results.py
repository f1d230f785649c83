"""What an adapter has done, understood: whatever comes of `execute` or `attach`, an attempt that ended has an outcome.

An adapter is somebody else's program. It may return what is no outcome, or raise what is no `Exception`; none of it may
leave a run without an end, for a run without an end is taken for lost, and started again.
"""

import json
import traceback
from dataclasses import asdict
from typing import Any

from reprieve.models.status import ErrorCode
from reprieve.models.used import Used
from reprieve.models.work import Outcome, storable

#: Bytes of an outcome's detail, as JSON: it is on the attempt's row and in an event, and each listing of runs reads it.
MAX_DETAIL = 1024 * 1024
#: Seconds that an adapter can have a retry wait at the most.
LONGEST_RETRY_AFTER = 30 * 86_400.0
#: Characters that are shown of what an adapter returned.
SHOWN = 200


def understood(adapter: str, answer: object) -> Outcome:
    """The outcome that an adapter has returned, fit to be recorded; a failure that names the adapter if it is none."""
    try:
        return _checked(adapter, answer)
    except Exception as error:  # Whatever is called here (`str`, a property) may be the adapter's own.
        return Outcome.failed(f"The adapter {adapter!r} returned an outcome that cannot be kept: {last_line(error)}.")


def raised(adapter: str, error: BaseException) -> Outcome:
    """The outcome of an attempt whose adapter has raised."""
    return Outcome.failed(f"The adapter {adapter!r} raised {last_line(error)}")


def last_line(error: BaseException) -> str:
    """An error in one line, as the end of a traceback has it; also one that cannot say what it is."""
    try:
        return traceback.format_exception_only(error)[-1].strip()
    except Exception:
        return type(error).__name__


def _checked(adapter: str, answer: object) -> Outcome:
    if not isinstance(answer, Outcome):
        return Outcome.failed(f"The adapter {adapter!r} returned {_shown(answer)}, where an Outcome was due.")
    code, message, detail = answer.error_code, answer.error_message, answer.detail
    if code is not None and not isinstance(code, ErrorCode):
        return _refused(adapter, f"the error code {_shown(code)}, which is no ErrorCode")
    if message is not None and not isinstance(message, str):
        return _refused(adapter, f"the message {_shown(message)}, which is no text")
    if not isinstance(detail, dict):
        return _refused(adapter, f"the detail {_shown(detail)}, which is no dictionary")
    try:
        kept: dict[str, Any] = storable(detail)
        size = len(json.dumps(kept))
    except Exception as error:
        return _refused(adapter, f"a detail that cannot become JSON ({last_line(error)[:SHOWN]})")
    if size > MAX_DETAIL:
        return _refused(adapter, f"a detail of {size:,} bytes, of which {MAX_DETAIL:,} are kept at the most")
    return Outcome(code, message, kept, retry_after=_seconds(answer.retry_after), used=_used(answer.used))


def _used(given: object) -> Used | None:
    """What an adapter says that was used, as far as it can be kept; what is not costs nobody a result."""
    return Used.of(asdict(given)) if isinstance(given, Used) else None


def _seconds(given: object) -> float:
    """How long an adapter has a retry wait; what is no such time is none, and costs nobody a result."""
    if not isinstance(given, int | float) or not 0 <= given <= LONGEST_RETRY_AFTER:
        return 0.0 if not isinstance(given, int | float) or not given > 0 else LONGEST_RETRY_AFTER
    return float(given)


def _refused(adapter: str, what: str) -> Outcome:
    return Outcome.failed(f"The adapter {adapter!r} returned an Outcome with {what}.")


def _shown(value: object) -> str:
    """A value's type and, where it is short and plain, the value."""
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, str | int | float) and len(shown := repr(value)) <= SHOWN:
        return f"{shown} ({kind})"
    return f"a value of type {kind}"
