"""What a soak does to its system, a moment at a time: kills, stops, restarts, floods."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from random import Random

import psutil
from redis.exceptions import RedisError
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from reprieve.stores.cache import connect
from tests.soak import hosts
from tests.soak.hosts import FarHost
from tests.soak.work import Source
from tests.support.fleet import Fleet
from tests.support.object_store import DENIED, METHODS, ObjectStore
from tests.support.processes import Process

#: Queue, workers of it, threads of each.
WORKERS = (("control", 2, 4), ("logs", 2, 4), ("archive", 1, 2), ("runs", 3, 120))

#: Ends every other session of this database.
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""

#: How long a worker may stand still, in windows.
LONGEST_STALL = 0.5


class Chaos:
    """A fleet of workers and beats, and what happens to it. Counts what it did."""

    def __init__(
        self, fleet: Fleet, source: Source, store: ObjectStore, random: Random, window: float, ending: ExitStack
    ) -> None:
        self._fleet = fleet
        self._source = source
        self._store = store
        self._random = random
        self._window = window
        self.done: Counter[str] = Counter()
        self.lost_nodes: set[str] = set()
        self.fallen: list[str] = []
        self.workers: list[tuple[str, int, Process]] = [
            (queue, threads, fleet.start(queue, threads)) for queue, count, threads in WORKERS for _ in range(count)
        ]
        self.beats = [fleet.start_beat() for _ in range(2)]
        self.hosts = [FarHost(fleet, number, ending) for number in range(1, 3)] if hosts.can_be_made() else []
        self.lost_containers: set[str] = set()
        self.mended: dict[str, float] = {}
        self._actions: list[tuple[int, str, Callable[[], None]]] = [
            (6, "worker killed", self._kill_worker),
            (3, "worker asked to stop", self._stop_worker),
            (4, "worker stood still", self._stall_worker),
            (2, "beat killed", self._kill_beat),
            (1, "PostgreSQL killed", lambda: fleet.restart(fleet.postgres, self._random.uniform(0.5, window / 6))),
            (1, "Redis killed", lambda: fleet.restart(fleet.redis, self._random.uniform(0.5, window / 6))),
            (1, "Redis emptied", self._flush_redis),
            (1, "log queue flooded", lambda: source.flood(20_000)),
            (1, "PostgreSQL read-only", self._make_read_only),
            (2, "worker short of descriptors", self._take_descriptors),
            (1, "archive refuses", lambda: self._for_a_while("refused", dict.fromkeys(METHODS, DENIED), {})),
            (1, "archive hangs", lambda: self._for_a_while("hanging", METHODS, frozenset())),
            (1, "archive forgets", lambda: self._for_a_while("forgets", True, False)),
            *([(1, "disk full", self._fill_disk)] if fleet.disk else []),
            *(self._of_hosts() if self.hosts else []),
        ]

    def _of_hosts(self) -> list[tuple[int, str, Callable[[], None]]]:
        def a_while(most: float) -> float:
            return self._random.uniform(0.1, self._window * most)

        def one() -> FarHost:
            return self._random.choice(self.hosts)

        return [
            (1, "container recreated", lambda: self.lost_containers.add(one().recreate())),
            (1, "host cut off", lambda: one().cut(a_while(LONGEST_STALL))),
            (1, "host cut off one way", lambda: one().cut(a_while(LONGEST_STALL), fro=False)),
            (1, "host cut off the other way", lambda: one().cut(a_while(LONGEST_STALL), to=False)),
            # For longer than the window: it is heard through Redis.
            (1, "host cut off from PostgreSQL", lambda: self._cut_from_postgres(one(), a_while(1.5))),
            (1, "host's worker stood still", lambda: one().freeze(a_while(LONGEST_STALL))),
        ]

    def _cut_from_postgres(self, host: FarHost, seconds: float) -> None:
        host.cut_from_postgres(seconds)
        self.mended[host.node] = time.time()

    def act(self) -> str:
        """One thing at random; returns its name."""
        self.pick_up()
        _, name, action = self._random.choices(self._actions, [weight for weight, *_ in self._actions])[0]
        action()
        self.done[name] += 1
        return name

    def pick_up(self) -> None:
        """Note what ended by itself, and start it again, as whoever supervises it would."""
        for index, (_, _, process) in enumerate(self.workers):
            if process.popen.poll() is not None:
                self._note_fallen(process)
                self._replace(index)
        for index, process in enumerate(self.beats):
            if process.popen.poll() is not None:
                self._note_fallen(process)
                self.beats[index] = self._fleet.start_beat()
        for host in self.hosts:
            if host.worker.popen.poll() is not None:
                self._note_fallen(host.worker)
                self.lost_containers.add(host.recreate())

    def _note_fallen(self, process: Process) -> None:
        said = process.output.strip().splitlines() or [""]
        self.fallen.append(f"{process.name} ended by itself: {said[-1]}")

    def _replace(self, index: int) -> None:
        queue, threads, process = self.workers[index]
        if queue == "runs":
            self.lost_nodes.add(f"{process.name}@fleet")
        self.workers[index] = (queue, threads, self._fleet.start(queue, threads))

    def _kill_worker(self) -> None:
        index = self._random.randrange(len(self.workers))
        self.workers[index][2].kill()
        self._replace(index)

    def _stop_worker(self) -> None:
        index = self._random.randrange(len(self.workers))
        self.workers[index][2].stop(timeout=30)
        self._replace(index)

    def _stall_worker(self) -> None:
        """For less than a window: a worker that stands still for longer has lost its children, by what is promised."""
        _, _, process = self._random.choice(self.workers)
        process.send(signal.SIGSTOP)
        time.sleep(self._random.uniform(0.1, self._window * LONGEST_STALL))
        process.send(signal.SIGCONT)

    def _kill_beat(self) -> None:
        index = self._random.randrange(len(self.beats))
        self.beats[index].kill()
        self.beats[index] = self._fleet.start_beat()

    def _flush_redis(self) -> None:
        with suppress(RedisError), connect(self._fleet.redis.url) as redis:
            redis.flushall()

    def _make_read_only(self) -> None:
        """As in a switch-over: sessions that begin meanwhile stay read-only for good, and the others are ended."""
        try:
            with read_only(self._fleet.postgres.url):
                time.sleep(self._random.uniform(0.5, self._window / 6))
        except DBAPIError:
            return  # It is away just now.

    def _for_a_while(self, what: str, ill: object, well: object) -> None:
        """Have the object store be ill, in this way of it, for less than a window."""
        setattr(self._store, what, ill)
        time.sleep(self._random.uniform(0.5, self._window * LONGEST_STALL))
        setattr(self._store, what, well)

    def _take_descriptors(self) -> None:
        """Leave a worker of runs a few descriptors more than it has, for less than a window."""
        process = self._random.choice(self.workers)[2]
        with suppress(psutil.Error):
            worker = psutil.Process(process.pid)
            before = worker.rlimit(psutil.RLIMIT_NOFILE)
            worker.rlimit(psutil.RLIMIT_NOFILE, (worker.num_fds() + 3, before[1]))
            time.sleep(self._random.uniform(0.5, self._window * LONGEST_STALL))
            worker.rlimit(psutil.RLIMIT_NOFILE, before)

    def _fill_disk(self) -> None:
        filler = self._fleet.data / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024 * 1024))
        time.sleep(self._random.uniform(0.5, self._window * LONGEST_STALL))
        filler.unlink()

    def stop_everything(self) -> None:
        """Ask all to end, beats first."""
        for process in [*self.beats, *(process for *_, process in self.workers)]:
            process.send(signal.SIGTERM)
        for host in self.hosts:
            host.stop()
        for process in [*self.beats, *(process for *_, process in self.workers)]:
            process.stop(timeout=60)


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """The database takes no writes for as long as the block lasts; its sessions are made anew."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def let(write: bool) -> None:
        with engine.connect() as connection:
            connection.execute(text("SET default_transaction_read_only = off"))
            connection.execute(text(f"ALTER ROLE CURRENT_USER SET default_transaction_read_only = {not write}"))

    let(write=False)
    try:
        with engine.connect() as connection:
            connection.execute(text(END_SESSIONS))
        yield
    finally:
        while not tolerant(lambda: let(write=True)):
            time.sleep(0.5)


def tolerant(action: Callable[[], object]) -> bool:
    """Do something to a system that may be away just now; False when it was."""
    try:
        action()
    except (DBAPIError, RedisError, OSError):
        return False
    return True
