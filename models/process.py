"""What identifies a process beyond its number, which the system gives to another as soon as it is free."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one host, for as long as the host is up.

    `started_at` is in seconds since the host's boot: unlike the time of day, it does not move when a clock is set.
    `namespace` names the boot and the PID namespace in which the number means something.
    """

    pid: int
    process_group_id: int
    started_at: float
    namespace: str

    def as_handle(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_handle(cls, handle: dict[str, Any]) -> "ProcessIdentity":
        """Raises `KeyError` when the handle is not one of a process."""
        return cls(
            int(handle["pid"]),
            int(handle["process_group_id"]),
            float(handle["started_at"]),
            str(handle["namespace"]),
        )
