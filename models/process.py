"""What identifies a process beyond its number, which the system gives to another as soon as it is free."""

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
