"""Lanes: never more of their runs at once than the rule says, whoever claims, ends or loses them, and in what order."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from typer.testing import CliRunner
from uuid_utils.compat import uuid7

from reprieve import enqueue_run
from reprieve.cli.checks.fleet import lanes as lanes_check
from reprieve.cli.main import app
from reprieve.models.errors import InvalidRequest
from reprieve.models.places import Room
from reprieve.models.requests import NewRun
from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.work import End, Outcome, Work
from reprieve.models.workers import Presence
from reprieve.stores.database import Database
from reprieve.stores.runs.claims import CLAIM_TO_THE_LIMIT, CLAIM_WITHOUT_LIMIT, LOCK_LANES
from reprieve.stores.runs.insertion import insert
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.health import complaints
from tests.conftest import StartWorker
from tests.support.http import calling
from tests.support.rows import new_run, status_of
from tests.support.waiting import eventually

ROOM = [Room(("detached", "process"), 50)]


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with calling(services, raising=False) as made:
        yield made


def queued(services: Services, lane: str = "default", count: int = 1, **changes: object) -> list[UUID]:
    return [new_run(services, adapter="process", lane=lane, **changes).id for _ in range(count)]


def claimed(services: Services, room: int = 50, lanes: Sequence[str] | None = None) -> list[UUID]:
    return [work.run_id for work in works(services, room, lanes)]


def works(services: Services, room: int = 50, lanes: Sequence[str] | None = None) -> list[Work]:
    """What a worker with so many places takes; in the order in which it was asked for."""
    return services.claims.claim([Room(("detached", "process"), room)], "runs@here", lanes=lanes).works


def end(services: Services, *ended: Work) -> None:
    finish(services, [End.by_result(work.fence, Outcome(), 0) for work in ended])


def lose(services: Services, work: Work) -> None:
    """As a reap does: it has failed, and its work is still to be confirmed gone."""
    finish(
        services,
        [
            End(
                fence=work.fence,
                status=Status.FAILED,
                kind=EventKind.REAPED,
                error_code=ErrorCode.PROCESS_LOST,
                error_message="Lost.",
            )
        ],
    )


def confirm(services: Services, work: Work) -> None:
    services.terminations.settle(work.run_id, work.attempt)


# -- order


def test_within_a_lane_the_urgent_goes_first_and_then_what_was_asked_for_first(services: Services) -> None:
    low, first, second, high = (queued(services, priority=priority)[0] for priority in (-1, 0, 0, 7))
    assert [claimed(services, 1)[0] for _ in range(4)] == [high, first, second, low]


def test_priorities_order_a_lane_with_a_limit_as_well(services: Services) -> None:
    services.lanes.limit("claude", 1)
    low, first, high = (queued(services, "claude", priority=priority)[0] for priority in (-5, 0, 5))
    taken = []
    for _ in range(3):
        (work,) = works(services)
        taken.append(work.run_id)
        end(services, work)
    assert taken == [high, first, low]


def test_the_lanes_of_one_pattern_take_turns_and_others_wait_no_longer_for_it(services: Services) -> None:
    services.lanes.limit("tenant:*", 10)
    many = queued(services, "tenant:many", 6)
    few = queued(services, "tenant:few", 2)
    other = queued(services)[0]
    # One at a time: whoever has fewest under way; the pattern's turn beside other lanes comes by the age of its runs.
    assert [claimed(services, 1)[0] for _ in range(9)] == [
        many[0], few[0], many[1], few[1], *many[2:], other
    ]  # fmt: skip


def test_a_claim_of_many_takes_turns_as_well(services: Services) -> None:
    services.lanes.limit("tenant:*", 10)
    many, few = queued(services, "tenant:many", 6), queued(services, "tenant:few", 2)
    assert set(claimed(services, 4)) == {*many[:2], *few}


# -- limits


def test_no_more_runs_of_a_lane_begin_than_its_limit_and_the_next_when_one_has_ended(services: Services) -> None:
    services.lanes.limit("claude", 3)
    runs, free = queued(services, "claude", 5), queued(services, count=2)
    first = works(services)
    assert {work.run_id for work in first} == {*runs[:3], *free}
    assert claimed(services) == []
    end(services, first[0])
    assert claimed(services) == [runs[3]]


def test_each_name_under_a_pattern_has_the_limit_for_itself(services: Services) -> None:
    services.lanes.limit("tenant:*", 2)
    for tenant in ("a", "b"):
        queued(services, f"tenant:{tenant}", 3)
    taken = Counter(work.lane for work in works(services))
    assert taken == {"tenant:a": 2, "tenant:b": 2}


def test_a_lane_has_the_rule_of_its_own_name_and_else_of_the_longest_pattern(services: Services) -> None:
    for pattern, limit in {"*": 9, "tenant:*": 2, "tenant:acme*": 3, "tenant:acme": 1}.items():
        services.lanes.limit(pattern, limit)
    for lane in ("tenant:acme", "tenant:acme2", "tenant:b", "other"):
        queued(services, lane, 12)
    taken = Counter(work.lane for work in works(services))
    assert taken == {"tenant:acme": 1, "tenant:acme2": 3, "tenant:b": 2, "other": 9}


def test_the_default_lane_has_no_limit_unless_it_is_given_one(services: Services) -> None:
    queued(services, count=5)
    assert len(claimed(services, 3)) == 3
    services.lanes.limit("default", 4)
    assert len(claimed(services)) == 1


def test_two_groups_of_adapters_share_the_places_of_a_lane(services: Services) -> None:
    services.lanes.limit("claude", 3)
    queued(services, "claude", 3)
    for _ in range(3):
        new_run(services, adapter="remote", lane="claude")
    rooms = [Room(("process",), 9), Room(("remote",), 9)]
    assert len(services.claims.claim(rooms, "w").works) == 3


def test_work_that_may_still_be_running_holds_its_place_until_it_is_confirmed_gone(services: Services) -> None:
    services.lanes.limit("claude", 1)
    _, second = queued(services, "claude", 2)
    (work,) = works(services)
    lose(services, work)
    assert claimed(services) == []
    confirm(services, work)
    assert claimed(services) == [second]


def test_a_run_that_is_taken_back_holds_no_place(services: Services) -> None:
    services.lanes.limit("claude", 1)
    first, second = queued(services, "claude", 2)
    (work,) = works(services)
    assert services.claims.take_back(work.fence, "could not begin", 3600.0, 0) is not None
    assert claimed(services) == [second]
    assert status_of(services, first) == "queued"


def test_a_lower_limit_ends_nothing_and_lets_none_begin_until_there_is_room(services: Services) -> None:
    services.lanes.limit("claude", 3)
    queued(services, "claude", 5)
    running = works(services)
    services.lanes.limit("claude", 1)
    end(services, running[0])
    assert claimed(services) == []
    end(services, *running[1:])
    assert len(claimed(services)) == 1


def test_a_paused_lane_begins_nothing_and_goes_on_when_it_is_resumed(services: Services) -> None:
    services.lanes.pause("claude")
    (waits,), (free,) = queued(services, "claude"), queued(services)
    assert claimed(services) == [free]
    services.lanes.resume("claude")
    assert claimed(services) == [waits]


def test_a_worker_takes_runs_of_the_lanes_that_it_serves_and_of_no_other(services: Services) -> None:
    services.lanes.limit("tenant:*", 5)
    gpu, tenant, other = (queued(services, lane)[0] for lane in ("gpu", "tenant:a", "default"))
    assert claimed(services, lanes=["gpu", "tenant:*"]) == [gpu, tenant]
    assert claimed(services, lanes=["gpu"]) == []
    assert claimed(services, lanes=["default"]) == [other]


def test_without_the_look_at_limits_nothing_of_a_lane_with_one_is_taken_and_it_is_said_that_something_waits(
    services: Services,
) -> None:
    services.lanes.limit("claude", 1)
    (free,), _ = queued(services), queued(services, "claude")
    without = services.claims.claim(ROOM, "w", limited=False)
    assert ([work.run_id for work in without.works], without.limited, without.passed_over) == ([free], True, True)
    whole = services.claims.claim(ROOM, "w")
    assert (len(whole.works), whole.passed_over) == (1, False)


# -- two of everything


def test_workers_that_claim_in_the_same_moment_never_exceed_a_limit_together(services: Services) -> None:
    services.lanes.limit("claude", 3)
    queued(services, "claude", 60)
    gate = threading.Barrier(6)
    most: list[int] = []

    def claim_again_and_again(_: int) -> list[Work]:
        taken = []
        for _ in range(12):
            gate.wait(60)
            mine = works(services, 2)
            most.append(_under_way(services)["claude"])
            end(services, *mine)
            taken += mine
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = [work.run_id for works in pool.map(claim_again_and_again, range(6)) for work in works]
    assert len(set(taken)) == len(taken) >= 12
    assert max(most) <= 3


def test_limits_are_counted_under_their_lock_whatever_isolation_the_server_was_given(services: Services) -> None:
    services.lanes.limit("claude", 1)
    queued(services, "claude", 2)
    services.database.run("ALTER ROLE CURRENT_USER SET default_transaction_isolation = 'repeatable read'")
    other = Database(services.settings.require_database_url())
    try:
        with other.begin() as connection:
            connection.execute(text("SELECT FROM lanes"))
            assert len(claimed(services)) == 1
            rooms = json.dumps([asdict(room) for room in ROOM])
            locked = connection.execute(LOCK_LANES, {"lanes": None, "rooms": rooms, "worker_id": None}).one()
            assert (locked.open, locked.held) == (0, [])
    finally:
        services.database.run("ALTER ROLE CURRENT_USER RESET default_transaction_isolation")
        other.dispose()


def test_a_lane_that_another_is_claiming_from_is_passed_over_and_keeps_back_no_other(services: Services) -> None:
    services.lanes.limit("claude", 3)
    services.lanes.limit("codex", 3)
    queued(services, "claude"), queued(services)
    with services.database.begin() as other:
        rooms = json.dumps([asdict(room) for room in ROOM])
        assert other.execute(LOCK_LANES, {"lanes": None, "rooms": rooms, "worker_id": None}).one().held == ["claude"]
        found = services.claims.claim(ROOM, "w")
        assert ([work.lane for work in found.works], found.passed_over) == (["default"], True)
        queued(services, "codex")
        assert [work.lane for work in services.claims.claim(ROOM, "w").works] == ["codex"]
    assert [work.lane for work in services.claims.claim(ROOM, "w").works] == ["claude"]


def test_a_run_that_somebody_holds_keeps_its_lane_from_nothing_else(services: Services) -> None:
    services.lanes.limit("claude", 2)
    held, second, third, fourth = queued(services, "claude", 4)
    with services.database.begin() as other:
        other.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": held})
        assert claimed(services) == [second, third]
        assert claimed(services) == []
    services.lanes.limit("claude", 4)
    assert claimed(services) == [held, fourth]


@pytest.mark.parametrize("rule", ["tenant:*", None])
def test_what_is_locked_and_sorted_for_a_claim_does_not_grow_with_the_lanes(
    services: Services, rule: str | None
) -> None:
    lanes = [f"tenant:{number}" for number in range(1_500)]
    insert(
        services.database,
        [NewRun(uuid7(), "process", out_of_process_liveness=False, config={}, lane=lane) for lane in lanes],
    )
    for pattern in [rule] if rule else lanes:
        services.lanes.limit(pattern, 2)
    values = {"lanes": None, "rooms": json.dumps([asdict(room) for room in ROOM]), "worker_id": None}
    with services.database.begin() as connection:
        locked = connection.execute(LOCK_LANES, values).one()
        assert (locked.open, len(locked.held)) == (1_500, 100)
        plan = connection.execute(
            text(f"EXPLAIN (ANALYZE) {CLAIM_TO_THE_LIMIT.text}"),
            values | {"worker_node": "w", "held": locked.held, "passed_over": True},
        )
        assert "Disk:" not in "".join(plan.scalars())
    assert len(set(claimed(services) + claimed(services))) == 100


def test_a_claim_reads_the_queue_by_its_index_though_nothing_waited_when_the_table_was_analysed(
    services: Services,
) -> None:
    services.lanes.limit("tenant:*", 2)
    some = [NewRun(uuid7(), "process", out_of_process_liveness=False, config={}) for _ in range(2_000)]
    insert(services.database, some)
    services.database.run("UPDATE runs SET status = 'cancelled', finished_at = clock_timestamp()")
    services.database.run("ANALYZE runs")
    lanes = [f"tenant:{number}" for number in range(1_000)]
    insert(
        services.database,
        [NewRun(uuid7(), "process", out_of_process_liveness=False, config={}, lane=lane) for lane in lanes],
    )
    values = {"lanes": None, "rooms": json.dumps([asdict(room) for room in ROOM]), "worker_id": None}
    values |= {"worker_node": "w", "held": ["tenant:1"], "passed_over": True}
    with services.database.begin() as connection:
        for claim in (CLAIM_WITHOUT_LIMIT, LOCK_LANES, CLAIM_TO_THE_LIMIT):
            plan = "".join(connection.execute(text(f"EXPLAIN {claim.text}"), values).scalars())
            assert "runs_queue" in plan
            assert "runs_by_" not in plan


STEP = st.sampled_from(["enqueue", "claim", "end", "lose", "confirm", "retry", "take back", "cancel", "raise"])


class Life:
    """Three lanes, and all that may happen to their runs."""

    def __init__(self, services: Services) -> None:
        with services.database.begin() as connection:
            connection.execute(text("TRUNCATE runs, lanes CASCADE"))
        self.services, self.limits = services, Counter({"t:0": 1, "t:1": 2, "t:2": 3})
        self.running: list[Work] = []
        self.lost: list[Work] = []
        for lane, limit in self.limits.items():
            services.lanes.limit(lane, limit)

    def step(self, step: str, number: int) -> None:
        lane = f"t:{number % 3}"
        match step:
            case "enqueue":
                queued(self.services, lane, 1 + number % 3, max_attempts=3, priority=number)
            case "claim":
                self.running += works(self.services, 1 + number)
            case "raise":
                self.limits[lane] += 1
                self.services.lanes.limit(lane, self.limits[lane])
            case "confirm" if self.lost:
                confirm(self.services, self.lost.pop(number % len(self.lost)))
            case _ if self.running:
                self.lost += _leave(self.services, step, self.running.pop(number % len(self.running)))

    def to_the_end(self) -> None:
        """No place is lost, either: all that waits is taken in the end."""
        for work in self.lost:
            confirm(self.services, work)
        while self.services.database.run("SELECT FROM runs WHERE status = 'queued' LIMIT 1"):
            self.services.claims.let_in(100)
            end(self.services, *self.running)
            self.running = works(self.services)
            assert self.running


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(STEP, st.integers(0, 5)), min_size=20, max_size=60))
def test_whatever_happens_in_whatever_order_no_lane_exceeds_its_limit(
    services: Services, steps: list[tuple[str, int]]
) -> None:
    life = Life(services)
    for step, number in steps:
        life.step(step, number)
        assert _under_way(services) <= life.limits
    life.to_the_end()


def _leave(services: Services, step: str, work: Work) -> list[Work]:
    """One way for a run not to be running any more; gives it back where its work is not confirmed gone."""
    match step:
        case "end":
            end(services, work)
        case "take back":
            services.claims.take_back(work.fence, "could not begin", 0.0, 0)
        case "cancel":
            finish(services, [End.by_cancel(work.fence, Status.RUNNING)])
            return [work]
        case "retry" if work.attempt < work.max_attempts:
            finish(services, [End(work.fence, Status.QUEUED, EventKind.RETRIED)])
            return [work]
        case _:
            lose(services, work)
            return [work]
    return []


def _under_way(services: Services) -> Counter[str]:
    rows = services.database.run(
        "SELECT lane, count(*) AS n FROM runs r WHERE status = 'running' OR EXISTS "
        "(SELECT FROM run_attempts a WHERE a.run_id = r.id AND a.termination = 'owed') GROUP BY lane"
    )
    return Counter({row.lane: row.n for row in rows})


# -- what is said of them


def told(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_waiting_run_is_told_what_its_lane_waits_for_and_its_place_there(services: Services) -> None:
    services.lanes.limit("claude", 1)
    _, second, third = queued(services, "claude", 3)
    works(services)
    assert "It waits: 1 of 1 runs of lane claude are running; it is next there." in told("explain", second)
    assert "it is number 2 there." in told("explain", third)
    services.lanes.pause("claude")
    assert "It waits: Lane claude is paused since " in told("explain", third)
    (free,) = queued(services)
    assert "It waits: No living worker serves lane default; it is next there." in told("explain", free)
    services.workers.seen(uuid4(), "runs@here", services.node)
    assert "It waits in lane default: it is next." in told("explain", free)


def test_a_lane_that_no_living_worker_serves_is_named_by_explain_health_doctor_and_metrics(
    services: Services, client: TestClient
) -> None:
    services.workers.seen(uuid4(), "runs@here", services.node, Presence(lanes=["default"]))
    (run,) = queued(services, "gpu")
    assert "It waits: No living worker serves lane gpu; it is next there." in told("explain", run)
    sentence = "No living worker serves lane gpu, in which runs wait."
    assert sentence in complaints(services, services.sweeps.pulse())
    assert lanes_check(services) == (False, sentence)
    assert "reprieve_lanes_unserved 1.0" in client.get("/metrics").text
    services.workers.seen(uuid4(), "runs@there", services.node, Presence(lanes=["gp*"]))
    assert lanes_check(services)[0]
    assert "reprieve_lanes_unserved 0.0" in client.get("/metrics").text


def test_where_no_worker_lives_at_all_that_is_not_said_of_each_lane(services: Services) -> None:
    queued(services, "gpu")
    assert services.lanes.unserved(timedelta(minutes=1)) == []


def test_lanes_are_listed_with_what_runs_waits_and_is_to_be_confirmed_gone(
    services: Services, client: TestClient
) -> None:
    told("lane", "set", "claude", "--limit", 3)
    told("lane", "set", "tenant:*", "--limit", 2)
    queued(services, "claude", 4)
    new_run(services, adapter="process", lane="claude", start_at=services.database.now() + timedelta(hours=1))
    first, *_ = works(services)
    lose(services, first)
    (lane,) = client.get("/v1/lanes").json()["lanes"]
    assert {name: lane[name] for name in ("lane", "limit", "running", "ending", "waiting", "later", "pattern")} == {
        "lane": "claude",
        "limit": 3,
        "running": 2,
        "ending": 1,
        "waiting": 1,
        "later": 1,
        "pattern": "claude",
    }
    assert lane["why_waiting"].startswith("3 of 3 runs of lane claude are running (1 of which have ended")
    assert [rule["pattern"] for rule in client.get("/v1/lanes").json()["rules"]] == ["claude", "tenant:*"]
    listed = told("lanes")
    assert re.search(r"claude +3 +3 +1 +\d.* 1 +no living worker serves it, 1 not confirmed gone yet", listed)
    assert re.search(r"tenant:\* +0 +2 each", listed)
    assert json.loads(told("lanes", "--json"))["rules"] == client.get("/v1/lanes").json()["rules"]


def test_a_rule_is_set_paused_resumed_and_forgotten_by_command_and_over_http(
    services: Services, client: TestClient
) -> None:
    assert told("lane", "set", "claude", "--limit", 3) == "claude: limit 3\n"
    assert told("lane", "pause", "claude") == "claude: limit 3, paused\n"
    assert told("lane", "set", "claude", "--no-limit") == "claude: no limit, paused\n"
    assert told("lane", "resume", "claude") == "claude: no limit\n"
    assert told("lane", "remove", "claude") == "claude: no rule\n"
    assert client.put("/v1/lanes/tenant:*", json={"limit": 4, "paused": True}).json()["limit"] == 4
    (rule,) = services.lanes.rules()
    assert (rule.pattern, rule.limit, rule.paused_at is None) == ("tenant:*", 4, False)
    assert client.put("/v1/lanes/tenant:*", json={"limit": None}).json() == {
        "pattern": "tenant:*",
        "limit": None,
        "paused_at": None,
    }
    assert client.delete("/v1/lanes/tenant:*").status_code == 204
    assert services.lanes.rules() == []


def test_a_lane_whose_name_has_slashes_has_a_rule_over_http(services: Services, client: TestClient) -> None:
    address = "/v1/lanes/owner%2Frepository%3A%2A"
    assert client.put(address, json={"limit": 2}).json()["pattern"] == "owner/repository:*"
    assert client.delete(address).status_code == 204
    assert services.lanes.rules() == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("set", "claude"), "Give either --limit NUMBER or --no-limit."),
        (("set", "claude", "--limit", "0"), "limit is 0; give a whole number from 1 to 1,000,000"),
        (("set", "a*b", "--limit", "1"), "is no lane: give its name, or the beginning of names and one asterisk"),
        (("resume", "nobody"), "There is no rule for nobody; `reprieve lanes` lists them."),
        (("remove", "nobody"), "There is no rule for nobody"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(services: Services, arguments: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(problem).replace("\\*", r"\*")):
        CliRunner().invoke(app, ["lane", *arguments], catch_exceptions=False)
    assert services.lanes.rules() == []


# -- workers

HOLD = """
n=$(ls {places} | wc -l)
mkdir {places}/$REPRIEVE_RUN_ID
ls {places} | wc -l >> {folder}/seen
sleep 0.1
rmdir {places}/$REPRIEVE_RUN_ID
"""


def test_two_workers_keep_a_limit_and_leave_no_place_of_a_lane_empty(
    services: Services, start_worker: StartWorker, tmp_path: Path
) -> None:
    services.lanes.limit("claude", 2)
    places = tmp_path / "places"
    places.mkdir()
    script = HOLD.format(places=places, folder=tmp_path)
    for name in ("one", "two"):
        start_worker("runs,logs", name=name, concurrency=4)
    runs = [enqueue_run("process", {"command": ["sh", "-c", script]}, lane="claude").id for _ in range(20)]
    eventually(lambda: {status_of(services, run) for run in runs} == {"succeeded"}, timeout=120)
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    assert (len(seen), max(seen)) == (20, 2)
