"""Taking runs from their rows: in their order, as many as there are places for, by whoever has one."""

import errno
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from reprieve import enqueue_run
from reprieve.models.places import Room
from reprieve.models.work import Work
from reprieve.stores.runs.claims import CLAIM_WITHOUT_LIMIT, Claimed
from reprieve.workers.bootstrap import Services
from reprieve.workers.supervision import taking
from reprieve.workers.supervision.followed import Followed
from reprieve.workers.supervision.taking import Taking
from tests.conftest import StartWorker
from tests.support.processes import processes_of
from tests.support.rows import age, kinds, new_run, status_of, whole_log
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually


def queued(services: Services, adapter: str = "process", count: int = 1) -> list[UUID]:
    outside = adapter != "process"
    return [new_run(services, adapter=adapter, out_of_process_liveness=outside).id for _ in range(count)]


class Begun:
    """Stands in for the followers: they follow what is begun until the test ends it."""

    def __init__(self, services: Services) -> None:
        self.followed = Followed(services, direct_shipper(services))
        self.works: list[Work] = []

    def begin(self, work: Work) -> None:
        self.followed.begin(work)
        self.works.append(work)


@pytest.fixture
def begun(services: Services) -> Begun:
    return Begun(services)


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is not woken looks again only when the test has long failed."""
    monkeypatch.setattr(taking, "LOOK_INTERVAL", 120.0)


@pytest.fixture
def take(services: Services, begun: Begun) -> Taking:
    return Taking(services, begun.followed, begun, 3, uuid4(), "runs@here")  # type: ignore[arg-type]


# -- the statement


def test_runs_are_claimed_in_the_order_in_which_they_were_asked_for_and_no_more_than_there_is_room_for(
    services: Services,
) -> None:
    process, detached, remote = (
        queued(services, "process", 3),
        queued(services, "detached", 3),
        queued(services, "remote", 3),
    )
    rooms = [Room(("detached", "process"), 4), Room(("remote",), 1), Room(("kubernetes",), 9)]
    first = services.claims.claim(rooms, "runs@here").works
    assert [work.run_id for work in first] == [*process, detached[0], remote[0]]
    assert [work.attempt for work in first] == [1] * 5
    second = services.claims.claim(rooms, "runs@here").works
    assert [work.run_id for work in second] == [*detached[1:], remote[1]]
    assert services.claims.claim([], "runs@here").works == []
    assert kinds(services, process[0]) == ["enqueued", "claimed"]


def test_what_another_transaction_holds_is_passed_over_and_keeps_back_nobody(services: Services) -> None:
    held, free = queued(services, count=2)
    with services.database.begin() as other:
        other.exec_driver_sql("SELECT FROM runs WHERE id = %(id)s FOR UPDATE", {"id": held})
        assert [work.run_id for work in services.claims.claim([Room(("process",), 5)], "w").works] == [free]
    assert [work.run_id for work in services.claims.claim([Room(("process",), 5)], "w").works] == [held]


def test_a_run_that_may_not_be_claimed_yet_is_passed_over(services: Services) -> None:
    waits, free = queued(services, count=2)
    age(services, waits, -60, "not_before")
    assert [work.run_id for work in services.claims.claim([Room(("process",), 5)], "w").works] == [free]
    age(services, waits, 1, "not_before")
    assert services.claims.let_in(5) == 1
    assert [work.run_id for work in services.claims.claim([Room(("process",), 5)], "w").works] == [waits]


MANY = """
INSERT INTO runs
SELECT (jsonb_populate_record(r, jsonb_build_object('id', lpad(to_hex(i), 32, '0'), 'adapter', 'nobodys'))).*
FROM runs r CROSS JOIN generate_series(1, 20000) i
"""
SPECS = "INSERT INTO run_specs (run_id, config, labels) SELECT id, '{}', '{}' FROM runs ON CONFLICT DO NOTHING"


def test_a_claim_reads_no_run_of_other_adapters_and_none_that_has_ended_however_many_there_are(
    services: Services,
) -> None:
    queued(services, "process")
    with services.database.begin() as connection:
        for statement in (MANY, SPECS, "ANALYZE runs", "ANALYZE run_specs"):
            connection.execute(text(statement))
    queued(services, "process", 30)
    rooms = json.dumps([asdict(Room(("detached", "process"), 20)), asdict(Room(("remote",), 20))])
    values = {"rooms": rooms, "worker_node": "w", "worker_id": None, "lanes": None}
    plan = "\n".join(row[0] for row in services.database.run(text(f"EXPLAIN ANALYZE {CLAIM_WITHOUT_LIMIT}"), values))
    assert "Index Scan using runs_queue on runs" in plan
    assert "Seq Scan on runs" not in plan, plan
    nodes = re.split(r"\n *->", plan)
    looks = [node for node in nodes if "using runs_queue on runs" in node]
    assert any("AND (adapter = n.adapter))" in node for node in looks), plan
    assert not any("Rows Removed by Filter" in node for node in looks), plan


# -- turns


def test_a_worker_takes_no_more_than_it_has_places_for_and_the_rest_stays_queued(
    services: Services, begun: Begun, take: Taking
) -> None:
    runs = queued(services, count=5)
    take.turn()
    assert [work.run_id for work in begun.works] == runs[:3]
    assert [status_of(services, run) for run in runs[3:]] == ["queued", "queued"]
    begun.followed.end(begun.followed.contexts()[begun.works[0].fence])
    take.freed()
    take.turn()
    assert [work.run_id for work in begun.works] == runs[:4]


def test_what_takes_no_place_is_taken_where_all_places_are_taken(
    services: Services, begun: Begun, take: Taking
) -> None:
    queued(services, count=4)
    take.turn()
    remote = queued(services, "remote", 40)
    for run in remote:
        take.hint(run)
    take.turn()
    assert [work.run_id for work in begun.works[3:]] == remote


def test_a_worker_that_waits_takes_as_many_as_messages_came_for_and_leaves_the_rest_to_others(
    services: Services, begun: Begun, take: Taking
) -> None:
    take.turn()
    runs = queued(services, count=3)
    take.hint(runs[2])
    take.turn()
    assert [work.run_id for work in begun.works] == runs[:1]


def test_runs_whose_messages_are_lost_are_found_at_the_next_look(
    services: Services, begun: Begun, take: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "LOOK_INTERVAL", 0.0)
    take.turn()
    runs = queued(services, count=2)
    take.turn()
    assert [work.run_id for work in begun.works] == runs


def test_a_run_that_the_system_gives_no_thread_for_goes_back_to_the_queue(
    services: Services, begun: Begun, take: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: Work) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(begun, "begin", none_left)
    (run,) = queued(services)
    take.turn()
    assert (status_of(services, run), services.runs.get(run).attempt) == ("queued", 0)


def test_a_run_that_could_not_be_begun_keeps_none_that_was_claimed_with_it_from_its_beginning(
    services: Services, begun: Begun, take: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, trouble = begun.begin, iter([OSError(errno.EMFILE, "Too many open files")])

    def begin_the_second(work: Work) -> None:
        for error in trouble:
            raise error
        begin(work)

    def away(*_: Any) -> None:
        raise OperationalError("", None, Exception())

    monkeypatch.setattr(begun, "begin", begin_the_second)
    monkeypatch.setattr(services.claims, "take_back", away)
    runs = queued(services, count=2)
    take.turn()
    assert [work.run_id for work in begun.works] == runs[1:]


def test_what_is_claimed_while_the_worker_is_asked_to_stop_goes_back_to_the_queue(
    services: Services, begun: Begun, take: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = services.claims.claim

    def claim_slowly(*arguments: Any, **named: Any) -> Claimed:
        works = claim(*arguments, **named)
        begun.followed.close()
        return works

    monkeypatch.setattr(services.claims, "claim", claim_slowly)
    runs = queued(services, count=2)
    take.turn()
    assert begun.followed.contexts() == {}
    assert [(status_of(services, run), services.runs.get(run).attempt) for run in runs] == [("queued", 0)] * 2


def during_the_claim(services: Services, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have this happen once, when the rows were read and what they say is not known here yet."""
    claim, acts = services.claims.claim, iter([act])

    def claim_slowly(*arguments: Any, **named: Any) -> Claimed:
        works = claim(*arguments, **named)
        for one in acts:
            one()
        return works

    monkeypatch.setattr(services.claims, "claim", claim_slowly)


def test_a_message_that_comes_while_the_worker_looks_is_not_taken_for_one_that_it_has_looked_for(
    services: Services, begun: Begun, take: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_for_one() -> None:
        take.hint(queued(services)[0])

    during_the_claim(services, monkeypatch, ask_for_one)
    for _ in range(2):
        take.wait()
        take.turn()
    assert len(begun.works) == 1


@pytest.mark.usefixtures("no_second_look")
def test_a_place_that_becomes_free_while_the_worker_looks_is_filled_at_once(
    services: Services, begun: Begun, take: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    take.turn()
    queued(services, count=3)
    take.hint(queued(services)[0])
    take.hint(uuid4())
    take._here = 1

    def end_it_at_once(work: Work) -> None:
        begun.works.append(work)
        begun.followed.end(begun.followed.begin(work))
        take.freed()

    monkeypatch.setattr(begun, "begin", end_it_at_once)
    for number in range(1, 5):
        take.wait()
        take.turn()
        assert len(begun.works) == number


@pytest.mark.row("E13")
@pytest.mark.usefixtures("no_second_look")
def test_many_runs_that_take_no_place_are_taken_at_once_where_all_places_are_taken(
    services: Services, begun: Begun, take: Taking
) -> None:
    queued(services, count=4)
    take.turn()
    queued(services, "remote", 2 * taking.CLAIM_AT_ONCE + 1)
    take._look_at = 0.0
    for _ in range(3):
        take.wait()
        take.turn()
    assert len(begun.works) == 3 + 2 * taking.CLAIM_AT_ONCE + 1


# -- workers


@pytest.mark.row("E13")
def test_runs_that_need_nothing_of_a_worker_keep_no_command_waiting(
    services: Services, start_worker: StartWorker
) -> None:
    start_worker("runs,logs", concurrency=2)
    remote = [enqueue_run("remote", {"note": "silent"}).id for _ in range(60)]
    eventually(lambda: {status_of(services, run) for run in remote} == {"running"}, timeout=60)
    commands = [enqueue_run("process", {"command": ["true"]}).id for _ in range(10)]
    eventually(lambda: {status_of(services, run) for run in commands} == {"succeeded"}, timeout=60)


def test_what_one_worker_has_no_place_for_another_takes(
    services: Services, start_worker: StartWorker, redis: Redis
) -> None:
    start_worker("runs,logs", name="full", concurrency=1)
    runs = [enqueue_run("process", {"command": ["sleep", "600"]}).id for _ in range(3)]
    eventually(lambda: Counter(status_of(services, run) for run in runs) == {"running": 1, "queued": 2})
    # It has taken all messages, and holds none of the runs.
    eventually(lambda: redis.llen("runs") == 0)
    start_worker("runs", name="free", concurrency=2)
    eventually(lambda: {status_of(services, run) for run in runs} == {"running"})
    assert Counter(services.runs.get_attempt(run, 1).worker_node for run in runs) == {"full@test": 1, "free@test": 2}


def test_adapters_that_block_fill_their_own_places_and_take_no_others_turn(
    services: Services, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("runs,logs", concurrency=4, application="tests.support.odd_worker", extra={"ODD_WORKER": "1"})
    script = f"echo begun; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; echo over"
    command = enqueue_run("process", {"command": ["sh", "-c", script]}).id
    eventually(lambda: processes_of(command))
    waits: dict[str, Any] = {"adapter": "odd-inside", "out_of_process_liveness": False, "config": {"what": "waits"}}
    # One that blocks the event loop of its adapter has the others of that adapter wait, and nobody else.
    hanging = new_run(services, **waits | {"adapter": "odd-loop", "config": {"what": "blocks"}}).id
    eventually(lambda: status_of(services, hanging) == "running")
    blocking = [new_run(services, **waits).id for _ in range(5)]
    eventually(lambda: Counter(status_of(services, run) for run in blocking) == {"running": 2, "queued": 3})
    remote = [enqueue_run("remote", {}).id for _ in range(20)]
    eventually(lambda: {status_of(services, run) for run in remote} == {"running"})
    (tmp_path / "go").touch()
    eventually(lambda: status_of(services, command) == "succeeded")
    assert whole_log(services, command) == b"begun\nover\n"
    eventually(lambda: [status_of(services, run) for run in blocking].count("running") == 3)


@pytest.mark.usefixtures("no_second_look")
def test_a_place_that_becomes_free_while_others_are_looked_for_is_filled_at_once(
    services: Services, begun: Begun, take: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = queued(services, count=6)
    take.turn()
    claim = services.claims.claim

    def claim_while_they_end(*arguments: Any, **named: Any) -> Claimed:
        for context in begun.followed.contexts().values():
            begun.followed.end(context)
            take.freed()
        return claim(*arguments, **named)

    monkeypatch.setattr(services.claims, "claim", claim_while_they_end)
    take.wake()
    take.wait()
    take.turn()  # All places were taken when it looked what room there is.
    monkeypatch.setattr(services.claims, "claim", claim)
    take.wait()
    take.turn()
    assert [work.run_id for work in begun.works] == runs
