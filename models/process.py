"""What identifies a process beyond its number, which the system gives to another as soon as it is free."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one host, for as long as the host is up.

    `started_at` is in seconds since the host's boot: unlike the time of day, it does not move when a clock is set.
    `namespace` names the boot and the PID namespace in which the number means something. `marker` is what all that
    descends from the process has inherited from it; empty where nothing was given.
    """

    pid: int
    process_group_id: int
    started_at: float
    namespace: str
    marker: str = ""

    def as_handle(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_handle(cls, handle: dict[str, Any]) -> "ProcessIdentity":
        """Raises `KeyError` or `ValueError` when the handle is not one of a process."""
        pid = int(handle["pid"])
        if pid <= 0:
            raise ValueError(f"No process has the number {pid}.")
        return cls(
            pid,
            int(handle["process_group_id"]),
            float(handle["started_at"]),
            str(handle["namespace"]),
            str(handle.get("marker") or ""),
        )


def work_of(attempt: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `terminate` is given to end an attempt, by its columns: its handle, or its child's identity, or nothing."""
    if attempt["handle"] is not None:
        handle: dict[str, Any] = attempt["handle"]
        return handle
    process = process_of(attempt)
    return process.as_handle() if process else None


def process_of(attempt: Mapping[str, Any]) -> ProcessIdentity | None:
    """The child that an attempt's worker owned, if its adapter spawned one."""
    pid, group, began = (attempt[f"process_{name}"] for name in ("pid", "group_id", "started_at"))
    if pid is None or group is None or began is None:
        return None
    return ProcessIdentity(pid, group, began, attempt["process_namespace"] or "", attempt["process_marker"] or "")
