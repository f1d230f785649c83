"""The runs of a soak: what each kind does, and how each must end."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from reprieve import cancel_run, enqueue_run
from reprieve.models.rows import RunRow

#: Prints numbered lines, so many a second, and ends as it is told: `exit N`, or `vanish`, killing its launcher. Holds
#: the lock of its run while it does so: whoever finds it taken is a second copy, and says so in a file.
PROGRAM = """
import fcntl, os, signal, sys, time
lines, rate, end, note = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]
run, attempt = os.environ["REPRIEVE_RUN_ID"], os.environ["REPRIEVE_ATTEMPT"]
lock = open(os.path.join(sys.argv[5], run), "a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    open(os.path.join(sys.argv[5], f"{run}.{attempt}.twice"), "w").close()
began = time.monotonic()
for number in range(lines):
    print(f"line {number}", flush=True)
    time.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))
if end == "vanish":
    with open(note, "w") as file:
        file.write(str(time.time()))
    os.kill(os.getppid(), signal.SIGKILL)  # The launcher, which would say how this ended.
    time.sleep(60)
sys.exit(int(end))
"""


@dataclass(frozen=True)
class Kind:
    """One kind of run: its share of the fleet, and how it must end."""

    name: str
    adapter: str
    share: int
    end: str
    status: str
    error_code: str | None = None
    silent: bool = False
    max_runtime: float | None = None
    within: tuple[str, ...] = ()
    """What the program is started by, and leaves the process group with."""


#: Starts the program, waits for it, and leaves a daemon behind that holds the output.
WITH_A_DAEMON = ("sh", "-c", 'setsid sleep 3000 & "$@"', "sh")

KINDS = (
    Kind("child", "process", 20, "0", "succeeded"),
    Kind("child under timeout", "process", 5, "0", "succeeded", within=("timeout", "3000")),
    Kind("child in a session of its own", "process", 5, "0", "succeeded", within=("setsid", "--wait")),
    Kind("child that leaves a daemon", "process", 3, "0", "succeeded", within=WITH_A_DAEMON),
    Kind("silent child", "process", 10, "0", "succeeded", silent=True),
    Kind("failing child", "process", 5, "3", "failed", "exit_status"),
    Kind("detached", "detached", 30, "0", "succeeded"),
    Kind("detached under timeout", "detached", 5, "0", "succeeded", within=("timeout", "3000")),
    Kind("detached that leaves a daemon", "detached", 3, "3", "failed", "exit_status", within=WITH_A_DAEMON),
    Kind("silent detached", "detached", 10, "0", "succeeded", silent=True),
    Kind("failing detached", "detached", 5, "3", "failed", "exit_status"),
    Kind("vanishing", "detached", 10, "vanish", "failed", "adapter_liveness_lost"),
    Kind("endless", "detached", 5, "0", "failed", "timed_out", max_runtime=20),
    Kind("cancelled", "detached", 5, "0", "cancelled"),
    Kind("cancelled under timeout", "process", 5, "0", "cancelled", within=("timeout", "3000")),
)


@dataclass
class Started:
    """A run of a soak: what it is, and what it is to print."""

    kind: Kind
    run_id: UUID
    lines: int
    note: Path
    cancelled: bool = False

    @property
    def expected(self) -> bytes:
        return b"".join(b"line %d\n" % number for number in range(self.lines))

    def died_at(self) -> float | None:
        """When a vanishing run killed itself, in seconds since the epoch; the database is on the same machine."""
        return float(self.note.read_text()) if self.note.exists() else None


@dataclass
class Source:
    """Starts runs of all kinds, by their shares."""

    random: Random
    folder: Path
    started: list[Started] = field(default_factory=list)

    @property
    def locks(self) -> Path:
        """A lock for each run, held by its command."""
        return self.folder / "locks"

    def twice(self) -> list[str]:
        """The runs, with their attempts, of which a second copy began while another was there."""
        return sorted(path.stem for path in self.locks.glob("*.twice"))

    def start(self, longest: float) -> Started:
        """One more run, which lives for `longest` seconds at the most. Raises what the database raises."""
        kind = self.random.choices(KINDS, [one.share for one in KINDS])[0]
        seconds = self.random.uniform(longest / 4, longest)
        rate = 1 / seconds if kind.silent else self.random.choice([1.0, 5.0, 20.0])
        lines = 1 if kind.silent else int(seconds * rate)
        if kind.max_runtime is not None or kind.end == "cancelled" or kind.status == "cancelled":
            lines = int(rate * 3600)
        note = self.folder / f"died-{len(self.started)}"
        run = self._enqueue(kind, [str(lines), str(rate), kind.end, str(note)])
        self.started.append(Started(kind, run.id, lines, note))
        return self.started[-1]

    def _enqueue(self, kind: Kind, arguments: list[str]) -> RunRow:
        self.locks.mkdir(exist_ok=True)
        program = [sys.executable, "-I", "-S", "-c", PROGRAM, *arguments, str(self.locks)]
        config: dict[str, Any] = {"command": [*kind.within, *program]}
        return enqueue_run(kind.adapter, config, max_attempts=50, max_runtime=kind.max_runtime)

    def cancel_one(self) -> None:
        """Cancel the oldest run that is to be cancelled and was not yet."""
        for one in self.started:
            if one.kind.status == "cancelled" and not one.cancelled:
                cancel_run(one.run_id)
                one.cancelled = True
                return

    def flood(self, lines: int) -> None:
        """A run that prints as fast as it can: a backlog in the log queue."""
        kind = next(one for one in KINDS if one.name == "detached")
        note = self.folder / "unused"
        run = self._enqueue(kind, [str(lines), "1e9", "0", str(note)])
        self.started.append(Started(kind, run.id, lines, note))


def unfinished(runs: list[Started], status_of: Callable[[UUID], str]) -> list[Started]:
    return [one for one in runs if status_of(one.run_id) in ("queued", "running")]
