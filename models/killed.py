"""Whether memory ended a command: said as that where the kernel's own count for the attempt says so, else as likely.

A cgroup of the attempt's own counts what the kernel has ended in it for want of memory: that is known. Elsewhere the
kernel counts for the whole host, or for the container of the worker: that a process was ended there, a moment before
this command was ended by SIGKILL, makes it likely, and no more.
"""

from dataclasses import dataclass, replace
from signal import SIGKILL

from reprieve.models.status import ErrorCode
from reprieve.models.text import in_memory, span
from reprieve.models.used import Used
from reprieve.models.work import Outcome


@dataclass(frozen=True, slots=True)
class Kills:
    """What the kernel has ended for want of memory among processes of which the attempt's are some."""

    number: int
    """At least 1, and one more where the kernel has ended all of a cgroup."""
    seconds: float
    """In this time, up to now."""
    where: str
    """For a sentence: `on this host`."""


def with_used(outcome: Outcome, used: Used, nearby: Kills | None = None) -> Outcome:
    """The outcome of a command with what it used, and with memory as the cause where it is."""
    outcome = replace(outcome, used=used)
    if outcome.error_code is not ErrorCode.EXIT_STATUS:
        return outcome
    if used.oom_kills:
        what = "it" if was_killed(outcome) else "a part of it"
        message = f"It ran out of memory, and the kernel killed {what}{_bracketed(used)}. {outcome.error_message}"
        return replace(outcome, error_code=ErrorCode.OOM_KILLED, error_message=message)
    if nearby is not None and nearby.number and was_killed(outcome):
        what = "a process" if nearby.number == 1 else "processes"
        return replace(
            outcome,
            error_message=f"{outcome.error_message} The kernel killed {what} for want of memory {nearby.where} in the "
            f"last {span(nearby.seconds)}, so it is likely that it was for that{_bracketed(used)}.",
        )
    return outcome


def was_killed(outcome: Outcome) -> bool:
    """Whether the command was ended by SIGKILL, or says, as a shell does, that what it ran was."""
    return outcome.detail.get("signal") == SIGKILL or outcome.detail.get("exit_status") == 128 + SIGKILL


def _bracketed(used: Used) -> str:
    known = (("at the most", used.peak_memory_bytes), ("limit", used.memory_limit_bytes))
    said = [f"{name} {in_memory(size)}" for name, size in known if size is not None]
    return f" ({', '.join(said)})" if said else ""
