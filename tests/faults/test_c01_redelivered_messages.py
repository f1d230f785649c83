"""C01: a message that comes again, or many times at once, starts nothing a second time."""

from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis

from reprieve import enqueue_run
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.hints import send_execute
from tests.faults.helpers_cdeg import all_at_once, no_process_left
from tests.support.rows import claim, kinds, new_run, status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("C01")

#: Says that it started, then waits to be let go, half a minute at most.
WORK = 'echo started >> "$1.starts"; for i in $(seq 300); do [ -e "$1.go" ] && exit 0; sleep 0.1; done'


def _enqueue(folder: Path, name: str) -> UUID:
    """A run that may be attempted again: nothing but the claim keeps a second copy from starting."""
    config = {"command": ["sh", "-c", WORK, "sh", name], "cwd": str(folder)}
    return enqueue_run("process", config, max_attempts=5).id


def _starts(folder: Path, name: str) -> int:
    path = folder / f"{name}.starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_message_that_comes_again_starts_no_second_child_beside_the_one_that_runs(
    services: Services, start_worker, tmp_path: Path, redis: Redis
) -> None:
    start_worker("runs", concurrency=2)
    start_worker("logs,control", name="others")
    names = ("first", "second", "waiting")
    runs = dict(zip(names, [_enqueue(tmp_path, name) for name in names], strict=True))
    with no_process_left(*runs.values()):
        eventually(lambda: [_starts(tmp_path, name) for name in names] == [1, 1, 0])
        for run_id in [*runs.values(), *runs.values()]:
            send_execute(run_id)
        eventually(lambda: redis.llen("runs") == 0, what="the messages to be taken, though there is no place")
        (tmp_path / "first.go").touch()
        eventually(lambda: _starts(tmp_path, "waiting") == 1)
        for run_id in runs.values():
            send_execute(run_id)
        eventually(lambda: redis.llen("runs") == 0)
        (tmp_path / "second.go").touch()
        (tmp_path / "waiting.go").touch()
        for run_id in runs.values():
            eventually(lambda run_id=run_id: status_of(services, run_id) == "succeeded")
    assert [_starts(tmp_path, name) for name in names] == [1, 1, 1]


def test_the_same_message_sent_five_times_at_once_starts_one_child(
    services: Services, start_worker, tmp_path: Path, redis: Redis
) -> None:
    run_id = _enqueue(tmp_path, "work")
    all_at_once([lambda: send_execute(run_id)] * 4)
    start_worker()
    with no_process_left(run_id):
        eventually(lambda: _starts(tmp_path, "work") == 1 and redis.llen("runs") == 0)
        (tmp_path / "work.go").touch()
        eventually(lambda: status_of(services, run_id) == "succeeded")
    assert _starts(tmp_path, "work") == 1
    assert kinds(services, run_id) == ["enqueued", "claimed", "spawned", "succeeded"]


def test_a_run_claimed_from_many_threads_at_once_is_claimed_once(services: Services) -> None:
    for _ in range(20):
        run = new_run(services, max_attempts=3)
        claims = all_at_once([lambda run=run: claim(services, run.id, "worker@test")] * 8)
        assert [work.attempt for work in claims if work is not None] == [1]
        assert len(services.runs.get(run.id).attempts) == 1


def test_a_run_that_has_ended_is_not_started_by_a_message_that_comes_late(services: Services) -> None:
    run = new_run(services, max_attempts=3)
    work = claim(services, run.id, "worker@test")
    assert work is not None
    finish(services, [End.by_result(work.fence, Outcome(), 0)])
    assert claim(services, run.id, "worker@test") is None
    assert kinds(services, run.id) == ["enqueued", "claimed", "succeeded"]
