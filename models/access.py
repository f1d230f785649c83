"""Who may do what over HTTP: three scopes, each of which includes those before it."""

from enum import StrEnum


class Scope(StrEnum):
    READ = "read"
    """See runs, their logs and the fleet."""
    RUN = "run"
    """Start and cancel runs: whatever the adapters can start, on the workers."""
    ADMIN = "admin"
    """Give out the tokens of remote runs, have the reaper look."""

    def includes(self, other: "Scope") -> bool:
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER = list(Scope)
