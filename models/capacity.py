"""What a worker of runs needs of its host: how many files it has open at once, and room on the disk."""

from dataclasses import dataclass

#: Descriptors of a worker that follows nothing: libraries, broker, Redis, its spool, the connections to PostgreSQL.
FILES_OF_A_WORKER = 120
#: Descriptors for each run that it has under way: pipes, what is open while a command is started, a look at `/proc`.
FILES_OF_A_RUN = 8
#: Bytes of a spool, by default, at which further output waits.
SPOOL_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Files:
    """What a process may open at once, and what its runs need."""

    soft: int
    hard: int
    concurrency: int

    @property
    def needed(self) -> int:
        return FILES_OF_A_WORKER + FILES_OF_A_RUN * self.concurrency

    @property
    def raised(self) -> int:
        """The soft limit that should be: no higher than is needed, for the commands inherit it, nor than may be.

        Some programs go through all descriptors that they may have; others (`select`) cannot bear more than 1024.
        """
        return max(self.soft, min(self.hard, self.needed))

    @property
    def shortage(self) -> str | None:
        """What is wrong and what to do, in one sentence; None when there are enough."""
        if self.raised >= self.needed:
            return None
        return (
            f"This process may open {self.raised} files at once, and {self.concurrency} runs at once may need "
            f"{self.needed}: raise the limit (ulimit -n, LimitNOFILE=), or lower the worker's --concurrency."
        )
