"""Five hundred runs over twenty lanes while workers are killed again and again: no limit is exceeded, no lane idles.

What counts is the work itself: each run holds the lock of one of its lane's places, which the kernel takes back
from whatever ends however. Takes ten minutes: `make test-slow`.
"""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from reprieve import enqueue_runs
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.support.processes import Process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUNS, LANES, WORKERS = 500, 20, 3
#: Seconds for which workers are killed, from one to the next, and for which a lane may have room and leave it empty.
KILLED_FOR, BETWEEN, IDLE = 600.0, 10.0, 3.0

#: Holds a place of its lane, or says that there was none, for as long as it works.
WORK = """
import fcntl, os, sys, time
folder, limit, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
held = []
for number in range(limit):
    place = open(os.path.join(folder, str(number)), "a")
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        continue
    held.append(place)
    break
if not held:
    open(os.path.join(folder, "exceeded"), "a").write(os.environ["REPRIEVE_RUN_ID"] + "\\n")
open(os.path.join(folder, "begun"), "a").write(f"{limit}\\n")
time.sleep(seconds)
"""

# room: lanes that have room, and in which a run could begin: its time has come, and no work of it is left.
ROOM = text("""
SELECT l.pattern FROM lanes l
WHERE l.at_once > (SELECT count(*) FROM runs r WHERE r.lane = l.pattern AND (r.status = 'running' OR EXISTS (
          SELECT FROM run_attempts a WHERE a.run_id = r.id AND a.termination = 'owed')))
  AND EXISTS (
      SELECT FROM runs r WHERE r.lane = l.pattern AND r.status = 'queued' AND r.not_before IS NULL
        AND NOT EXISTS (SELECT FROM run_attempts a WHERE a.run_id = r.id AND a.termination = 'owed'))
""")


class Idle:
    """For how long each lane has had room without using it."""

    def __init__(self, services: Services) -> None:
        self._services, self._since = services, dict[str, float]()
        self.longest: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            now = time.monotonic()
            rows = {row.pattern for row in self._services.database.run(ROOM)}
            self._since = {lane: self._since.get(lane, now) for lane in rows}
            for lane, since in self._since.items():
                self.longest[lane] = max(self.longest[lane], round(now - since, 1))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


def test_limits_hold_and_no_lane_idles_while_workers_are_killed(
    services: Services, start_worker: StartWorker, start_beat: Callable[[], Process], tmp_path: Path
) -> None:
    chance = random.Random(18)
    limits = {f"lane-{number}": 1 + number % 5 for number in range(LANES)}
    for lane, limit in limits.items():
        services.lanes.limit(lane, limit)
        (tmp_path / "places" / lane).mkdir(parents=True)
    start_worker("logs,control,archive", name="others")
    start_beat()
    crew = [start_worker("runs", name=f"runs{number}", concurrency=60) for number in range(WORKERS)]
    seconds = KILLED_FOR * sum(limits.values()) / RUNS * 0.8
    enqueue_runs(
        {
            "adapter": chance.choice(["process", "detached"]),
            "config": {"command": [sys.executable, "-I", "-S", "-c", WORK, *_place(tmp_path, lane, limits, seconds)]},
            "lane": lane,
            "priority": chance.randint(-3, 3),
            "max_attempts": 100,
        }
        for lane in (chance.choice(list(limits)) for _ in range(RUNS))
    )
    idle, until, killed = Idle(services), time.monotonic() + KILLED_FOR, 0
    try:
        while time.monotonic() < until and _left(services):
            time.sleep(BETWEEN)
            place = chance.randrange(WORKERS)
            crew[place].kill()
            killed += 1
            crew[place] = start_worker("runs", name=f"runs{place}", concurrency=60)
        while _left(services):
            time.sleep(1)
    finally:
        idle.close()
    exceeded = [str(one) for one in (tmp_path / "places").glob("*/exceeded")]
    begun = sum(len(one.read_text().split()) for one in (tmp_path / "places").glob("*/begun"))
    print(f"{killed} workers killed, {begun} attempts begun; longest idle {idle.longest.most_common(3)}")
    assert exceeded == []
    assert begun >= RUNS
    assert {lane: longest for lane, longest in idle.longest.items() if longest > IDLE} == {}


def _place(tmp_path: Path, lane: str, limits: dict[str, int], seconds: float) -> list[str]:
    return [str(tmp_path / "places" / lane), str(limits[lane]), f"{seconds:.1f}"]


def _left(services: Services) -> int:
    rows = services.database.run("SELECT count(*) AS n FROM runs WHERE status IN ('queued', 'running')")
    return int(rows[0].n)
