"""A service that dies while it asks for runs in its transactions: exactly the committed ones run."""

import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.conftest import Servers
from tests.support.callers import CALLERS, Undone, undone
from tests.support.killing import in_a_fork
from tests.support.processes import Process
from tests.support.rows import watch_for
from tests.support.waiting import eventually

RUNS = 100
#: Seconds that a service lives at the most from its first transaction on: time for some, or for a part of one.
LONGEST_LIFE = 0.03
#: A killed service's last statement may go on for a moment.
OPEN = text("SELECT count(*) FROM pg_locks WHERE relation = CAST('orders' AS regclass) AND pid <> pg_backend_pid()")


@pytest.fixture
def orders(services: Services) -> Iterator[Callable[[], set[int]]]:
    """The service's own table, which says what was committed."""
    services.database.run(text("CREATE TABLE orders (number int PRIMARY KEY)"))
    yield lambda: {row.number for row in services.database.run(text("SELECT number FROM orders"))}
    services.database.run(text("DROP TABLE orders"))


def serve(url: str, who: str, life: float, notes: Path, done: Path) -> None:
    """Take orders, each with its run, from where the service before died; half of them are taken back."""
    caller = CALLERS[who](url)
    with undone(), caller.transaction():
        caller.enqueue("process", {"command": ["true"]})  # What takes long the first time is no part of its life.
        raise Undone
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, life)
    for number in range(tried(notes), RUNS):
        with notes.open("a") as noted:
            noted.write(f"{number}\n")
        with undone(), caller.transaction():
            caller.execute(f"INSERT INTO orders VALUES ({number})")
            caller.enqueue("process", {"command": ["sh", "-c", f"echo {number} >> {done}"]}, labels={"n": str(number)})
            if number % 2:
                raise Undone
    signal.setitimer(signal.ITIMER_REAL, 0)
    caller.close()


def tried(notes: Path) -> int:
    return len(notes.read_text().splitlines())


FIRST, *OTHERS = CALLERS


@pytest.mark.parametrize("who", [FIRST, *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)])
def test_of_100_runs_of_a_service_that_is_killed_again_and_again_exactly_the_committed_ones_run(
    who: str,
    services: Services,
    servers: Servers,
    start_worker: Callable[..., Process],
    orders: Callable[[], set[int]],
    tmp_path: Path,
) -> None:
    notes, done = tmp_path / "notes", tmp_path / "done"
    notes.touch()
    done.touch()
    killed = 0
    while tried(notes) < RUNS:
        life = random.uniform(0.001, LONGEST_LIFE)
        killed += in_a_fork(partial(serve, servers.postgres.url, who, life, notes, done)) == -signal.SIGALRM
    eventually(lambda: services.database.run(OPEN)[0][0] == 0)
    committed = orders()
    assert killed > 2
    assert committed
    assert {int(run.labels["n"]) for run in services.records.newest(limit=RUNS + 1)} == committed

    start_worker()
    services.database.run(text("UPDATE runs SET updated_at = updated_at - interval '1 h' WHERE status = 'queued'"))
    watch_for(services, 600)
    sweep(services)
    eventually(lambda: sorted(map(int, done.read_text().split())) == sorted(committed), timeout=60)
