"""What an attempt used: processor, memory at the most, and the limit of that. Any of it may not be known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

#: The largest number of bytes that a column holds, and seconds of which any number of attempts can be added up.
MOST_BYTES, MOST_SECONDS = 2**63 - 1, 1e15


@dataclass(frozen=True, slots=True)
class Used:
    """What was measured of an attempt, all that descends from its command together."""

    cpu_seconds: float | None = None
    """Processor time, of the system for it as well."""
    peak_memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    """What its memory was limited to, if that was its own limit."""
    oom_kills: int | None = None
    """How often the kernel ended a process of it for want of memory, as it counts that; None where it does not."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """As far as it can be kept: the record of an earlier release says nothing, and a file, or somebody else's
        adapter, may say anything.
        """
        seconds = said.get("cpu_seconds")
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= MOST_SECONDS
        counts = (_count(said.get(name)) for name in ("peak_memory_bytes", "memory_limit_bytes", "oom_kills"))
        return cls(float(seconds) if known and seconds is not None else None, *counts)

    def limited_to(self, limit: int | None) -> "Used":
        return replace(self, memory_limit_bytes=limit)

    def and_seen(self, seen: "Used") -> "Used":
        """With what was seen of it while it ran: that counts where it says more, or this says nothing.

        But not beside the peak of a cgroup that counts memory: what is seen has the pages that processes share twice.
        """
        peaks = [one for one in (self.peak_memory_bytes, seen.peak_memory_bytes) if one is not None]
        is_exact = self.oom_kills is not None and self.peak_memory_bytes is not None
        return Used(
            seen.cpu_seconds if self.cpu_seconds is None else self.cpu_seconds,
            self.peak_memory_bytes if is_exact else max(peaks, default=None),
            seen.memory_limit_bytes if self.memory_limit_bytes is None else self.memory_limit_bytes,
            seen.oom_kills if self.oom_kills is None else self.oom_kills,
        )


#: What is known of an attempt that nobody measures.
NOTHING_KNOWN = Used()


def used_columns(used: Used) -> dict[str, Any]:
    """What an attempt used, as its columns have it …"""
    return {
        "cpu_seconds": used.cpu_seconds,
        "peak_memory": used.peak_memory_bytes,
        "memory_limit": used.memory_limit_bytes,
    }


def used_of(attempt: Mapping[str, Any]) -> dict[str, Any] | None:
    """… and the same by its columns, as a record has it; None where nothing is known of it."""
    said = {
        "cpu_seconds": attempt["cpu_seconds"],
        "peak_memory_bytes": attempt["peak_memory"],
        "memory_limit_bytes": attempt["memory_limit"],
    }
    return said if any(value is not None for value in said.values()) else None


def _count(given: object) -> int | None:
    return given if type(given) is int and 0 <= given <= MOST_BYTES else None
