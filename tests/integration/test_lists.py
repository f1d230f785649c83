"""Lists of runs: what fits each filter, page by page, each of which looks at a bounded number of runs."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from reprieve import enqueue_run
from reprieve.models.errors import InvalidRequest, RunNotFound
from reprieve.models.filters import MAX_WORDS, RunFilter, Sort
from reprieve.models.requests import NewRun
from reprieve.models.status import ErrorCode
from reprieve.models.work import End, Outcome
from reprieve.stores.runs import lists
from reprieve.stores.runs.insertion import insert
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_run
from reprieve.workers.finish import finish
from tests.support.rows import age, new_run, running


def all_of(services: Services, limit: int = 50, **choice: Any) -> list[UUID]:
    """What all pages have, one after the other."""
    found: list[UUID] = []
    wanted, before = RunFilter.of(**choice), None
    while True:
        page = services.records.page(wanted, before=before, limit=limit)
        assert len(page.runs) <= limit
        found += [run.id for run in page.runs]
        if page.next is None:
            return found
        assert before is None or page.next < before, "a page must begin before the one that it follows"
        before = page.next


def in_order(services: Services, sort: Sort, limit: int = 2, **choice: Any) -> list[UUID]:
    """What all pages have of a list that is sorted otherwise."""
    found: list[UUID] = []
    before = None
    while True:
        page = services.records.page(RunFilter.of(**choice), before=before, limit=limit, sort=sort)
        found += [run.id for run in page.runs]
        if (before := page.next) is None:
            return found


def failed(services: Services, code: ErrorCode, message: str = "No.", **changes: Any) -> UUID:
    work = running(services, **changes)
    assert finish(services, [End.by_result(work.fence, Outcome.failed(message, code), 0)])
    return work.run_id


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks at a handful of runs."""
    monkeypatch.setattr(lists, "LOOKS_FIRST", 2)
    monkeypatch.setattr(lists, "LOOKS_MOST", 5)
    monkeypatch.setattr(lists, "FEW", 3)


@pytest.mark.parametrize("bounded", [False, True], ids=["many at a time", "few at a time"])
@pytest.mark.parametrize("limit", [1, 3, 50])
def test_each_filter_finds_all_that_fit_and_nothing_else(
    services: Services, request: pytest.FixtureRequest, bounded: bool, limit: int
) -> None:
    if bounded:
        request.getfixturevalue("few_at_a_time")
    data, web = {"team": "data", "of": "a=b"}, {"team": "web"}
    runs: dict[str, UUID] = {}
    for turn in "123":
        runs |= {
            f"queued {turn}": new_run(services, labels=data).id,
            f"remote {turn}": new_run(services, adapter="remote", labels=web, lane="night").id,
            f"running {turn}": running(services, labels=data).run_id,
            f"cancelled {turn}": cancel_run(new_run(services, labels=web).id).id,
            f"stalled {turn}": failed(services, ErrorCode.STALLED, "Grown QUIET.", labels=web),
            f"exited {turn}": failed(services, ErrorCode.EXIT_STATUS, "100% of \\it_ ended", labels=data, lane="night"),
        }
    age(services, runs["queued 1"], 7200, column="created_at")

    def named(*names: str) -> list[UUID]:
        return [run_id for name, run_id in reversed(runs.items()) if name.split()[0] in names]

    everything = list(reversed(runs.values()))
    expected: list[tuple[dict[str, Any], list[UUID]]] = [
        ({}, everything),
        ({"statuses": ["running"]}, named("running")),
        ({"statuses": ["failed", "queued"]}, named("queued", "remote", "stalled", "exited")),
        ({"statuses": ["succeeded"]}, []),
        ({"adapter": "remote"}, named("remote")),
        ({"adapter": "remote", "statuses": ["succeeded", "queued"]}, named("remote")),
        ({"lane": "night"}, named("remote", "exited")),
        ({"error": "stalled"}, named("stalled")),
        ({"error": "stalled", "statuses": ["cancelled"]}, []),
        ({"labels": {"team": "data"}}, named("queued", "running", "exited")),
        ({"labels": {"team": "data", "of": "a=b"}, "lane": "night"}, named("exited")),
        ({"labels": {"team": "none"}}, []),
        ({"text": "TEAM=D"}, named("queued", "running", "exited")),
        ({"text": "quiet"}, named("stalled")),
        ({"text": "exit_status 100% OF \\"}, named("exited")),
        ({"text": '"'}, []),
        ({"text": "%"}, named("exited")),
        ({"text": "nowhere"}, []),
        (
            {"since": services.database.now() - timedelta(hours=1)},
            [run_id for run_id in everything if run_id != runs["queued 1"]],
        ),
        ({"since": services.database.now() + timedelta(days=1)}, []),
    ]
    for choice, found in expected:
        assert all_of(services, limit, **choice) == found, choice
        assert [run.id for run in services.records.newest(limit=2, **choice)] == found[:2], choice


@pytest.mark.usefixtures("few_at_a_time")
def test_a_page_that_has_looked_at_so_many_ends_early_and_says_from_where_the_next_goes_on(services: Services) -> None:
    ours = new_run(services, labels={"team": "data"}).id
    others = [new_run(services).id for _ in range(7)]
    page = services.records.page(RunFilter.of(text="team"), limit=2)
    assert (page.runs, page.next) == ([], others[-5])
    page = services.records.page(RunFilter.of(text="team"), before=page.next, limit=2)
    assert ([run.id for run in page.runs], page.next) == ([ours], None)


@pytest.mark.usefixtures("few_at_a_time")
def test_runs_with_a_label_that_few_have_are_found_at_once_however_far_back_they_are(services: Services) -> None:
    few = [new_run(services, labels={"team": "few"}).id for _ in range(3)][::-1]
    many = [new_run(services, labels={"team": "many"}).id for _ in range(4)][::-1]
    for _ in range(20):
        new_run(services)
    page = services.records.page(RunFilter.of(labels={"team": "few"}), limit=2)
    assert ([run.id for run in page.runs], page.next) == (few[:2], few[1])
    page = services.records.page(RunFilter.of(labels={"team": "many"}), limit=2)
    assert page.runs == []
    assert all_of(services, labels={"team": "many"}) == many


def test_labels_that_surely_many_have_are_not_counted(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LOOKS_FIRST", 2)
    for number in range(200):
        new_run(services, labels={"team": "data", "n": str(number)})
    with services.database.at_once() as connection:
        connection.execute(text("ANALYZE run_specs"))
    listing = lists.Listing(services.database, RunFilter.of(labels={"team": "data"}), None, 50, "r.id")
    found = listing._labelled()
    assert found is not None
    assert len(found[0]) == 50
    monkeypatch.setattr(lists, "SURELY_MANY", 100)
    assert listing._labelled() is None
    assert len(all_of(services, labels={"team": "data"})) == 200


def test_what_is_looked_at_is_found_by_id_whatever_index_its_labels_have(services: Services) -> None:
    for number in range(300):
        new_run(services, labels={"team": "data" if number % 50 else "rare", "n": str(number)})
    with services.database.at_once() as connection:
        connection.execute(text("ANALYZE run_specs"))
    listing = lists.Listing(services.database, RunFilter.of(labels={"team": "rare"}), None, 50, "r.id")
    with services.database.together() as transaction:
        for way in ("seqscan", "nestloop"):  # Whatever else would do.
            transaction.run(f"SET LOCAL enable_{way} = off")
        values = listing._values | {"looks": 100, "enough": 100, "limit": 51}
        statement = listing._statement(listing._ids_looked_at(), listing._conditions(None))
        plan = "\n".join(row[0] for row in transaction.run(f"EXPLAIN {statement}", values))
    assert "run_specs_labels" not in plan, plan


def test_a_run_that_comes_while_pages_are_turned_moves_none_of_them(services: Services) -> None:
    known = [new_run(services).id for _ in range(4)][::-1]
    page = services.records.page(RunFilter.of(), limit=2)
    new_run(services)
    assert page.next is not None
    rest = services.records.page(RunFilter.of(), before=page.next, limit=2)
    assert [run.id for run in (*page.runs, *rest.runs)] == known
    assert rest.next is None


def _many_that_do_not_fit(services: Services) -> None:
    with services.database.at_once() as connection:
        connection.execute(
            text(
                "INSERT INTO runs (id, adapter, out_of_process_liveness, status, finished_at, lane) "
                "SELECT gen_random_uuid(), 'other', false, 'succeeded', now(), 'day' FROM generate_series(1, 5000)"
            )
        )
        connection.execute(text("ANALYZE runs"))


@pytest.mark.parametrize(
    ("choice", "index"),
    [
        ({"statuses": ["failed"]}, "runs_by_status"),
        ({"statuses": ["failed", "cancelled"]}, "runs_by_status"),
        ({"statuses": ["running"]}, "(runs_running|runs_in_lane)"),
        ({"statuses": ["queued", "running"]}, "(runs_running|runs_in_lane)"),
        ({"statuses": ["queued"]}, "(runs_by_status|runs_queue)"),
        ({"adapter": "remote"}, "runs_by_adapter"),
        ({"lane": "night"}, "runs_by_lane"),
        ({"error": "stalled"}, "runs_by_error"),
    ],
)
def test_each_filter_of_a_column_is_read_by_its_index(services: Services, choice: dict[str, Any], index: str) -> None:
    """Where there are many: a small table is read as a whole, which is right."""
    _many_that_do_not_fit(services)
    listing = lists.Listing(services.database, RunFilter.of(**choice), None, 50, "r.id")
    values = {"looks": 51, "enough": 51, "limit": 51} | listing._values
    plan = [
        row[0] for row in services.database.run(f"EXPLAIN {listing._statement(listing._ids_looked_at(), [])}", values)
    ]
    assert any(re.search(f"using {index}", line) for line in plan), "\n".join(plan)


@pytest.mark.parametrize(
    "choice",
    [
        {"error": "no such"},
        {"lane": "\0"},
        {"since": datetime(2026, 1, 1)},
        {"since": "yesterday"},
        {"text": ""},
        {"text": "x" * (MAX_WORDS + 1)},
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_by_name(choice: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(choice))):
        RunFilter.of(**choice)


def test_a_text_of_the_greatest_length_is_looked_for(services: Services) -> None:
    assert all_of(services, text="x" * MAX_WORDS) == []


# -- ids


def put(services: Services, run_id: str) -> UUID:
    ((run, _),) = insert(services.database, [NewRun(UUID(run_id), "process", False, {"command": ["true"]})])
    return run.id


def test_a_part_of_an_id_is_enough_if_no_other_run_has_it(services: Services) -> None:
    one = put(services, "01997a5e-7d5c-7000-8000-0000000abcde")
    other = put(services, "01997a5e-7d5c-7000-8001-0000000abcde")
    resolve = services.records.resolve
    for part in (str(one), one.hex, str(one).upper(), "8000-0000000abcde", "80000000000abcde", str(one)[:23]):
        assert resolve(part) == one, part
    for both in ("abcde", "0000000abcde", "01997a5e", "01997a5e-7d5c-7000-80"):
        with pytest.raises(RunNotFound, match="more than one"):
            resolve(both)
    for none in ("bcd0", "abcd", "8002-0000000abcde", "01997a5f", str(one) + "0", "1997a5e"):
        with pytest.raises(RunNotFound, match=r"fits no run|no run id"):
            resolve(none)
    for unfit in ("abc", "----", "xyzw", "ab c", "%abcd"):
        with pytest.raises(RunNotFound, match="4 characters or more"):
            resolve(unfit)
    assert resolve("8001-0000000abcde") == other


def test_the_end_of_an_id_is_found_by_an_index(services: Services) -> None:
    statement, values = services.records._id_query(uuid7().hex[-12:])
    with services.database.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(connection.execute(text(f"EXPLAIN {statement}"), values | {"limit": 2}).scalars())
    assert "run_specs_by_end" in plan
    assert "runs_pkey" in plan


# -- from the other end, and in other orders


@pytest.mark.parametrize("bounded", [False, True], ids=["many at a time", "few at a time"])
@pytest.mark.parametrize(
    "choice",
    [{}, {"statuses": ["queued"]}, {"statuses": ["queued", "running"]}, {"labels": {"of": "1"}}, {"text": "of=1"}],
)
def test_the_oldest_first_is_the_same_list_from_its_other_end(
    services: Services, request: pytest.FixtureRequest, choice: dict[str, Any], bounded: bool
) -> None:
    if bounded:
        request.getfixturevalue("few_at_a_time")
    for number in range(12):
        new_run(services, labels={"of": str(number % 3)})
        running(services, labels={"of": str(number % 2)})
    newest = all_of(services, 5, **choice)
    assert len(newest) >= 10
    assert in_order(services, Sort.OLDEST, 5, **choice) == newest[::-1]


def test_what_is_running_is_sorted_by_how_long_and_by_its_last_sign_of_life(services: Services) -> None:
    long, silent, young = (running(services, labels={"team": "data"}).run_id for _ in range(3))
    other = running(services).run_id
    new_run(services)
    for run, began, lives in [(long, 9000, 5), (silent, 800, 200), (young, 10, 2), (other, 90_000, 290)]:
        age(services, run, began, "started_at")
        age(services, run, lives)
    of_data = {"statuses": ["running"], "labels": {"team": "data"}}
    assert in_order(services, Sort.LONGEST, 50, **of_data) == [long, silent, young]
    assert in_order(services, Sort.SILENT, 50, **of_data) == [silent, long, young]
    assert in_order(services, Sort.SILENT, 2, statuses=["running"]) == [other, silent]


@pytest.mark.parametrize("sort", [Sort.LONGEST, Sort.SILENT])
@pytest.mark.parametrize("statuses", [[], ["failed"], ["running", "queued"]])
def test_what_may_be_a_million_runs_is_not_sorted_by_what_no_index_has(
    services: Services, sort: Sort, statuses: list[str]
) -> None:
    with pytest.raises(InvalidRequest, match="ask for status=running with it"):
        services.records.page(RunFilter.of(statuses=statuses), sort=sort)
    with pytest.raises(InvalidRequest, match="has one page"):
        services.records.page(RunFilter.of(statuses=["running"]), before=uuid7(), sort=sort)


def test_runs_are_found_by_when_they_were_asked_for_and_by_when_they_ended(services: Services) -> None:
    old, middle, new = failed(services, ErrorCode.STALLED), failed(services, ErrorCode.STALLED), new_run(services).id
    for run, asked, ended in [(old, 1200, 100), (middle, 600, 500)]:
        age(services, run, asked, "created_at")
        age(services, run, ended, "finished_at")
    now = services.records.now()

    def ago(seconds: float) -> datetime:
        return now - timedelta(seconds=seconds)

    assert all_of(services, until=ago(300)) == [middle, old]
    assert all_of(services, until=ago(900)) == [old]
    assert all_of(services, since=ago(900), until=ago(10)) == [middle]
    assert all_of(services, ended_since=ago(200)) == [old]
    assert all_of(services, ended_since=ago(900), statuses=["failed"]) == [middle, old]
    assert all_of(services, until=now + timedelta(days=1)) == [new, middle, old]
    for name in ("since", "until", "ended_since"):
        with pytest.raises(InvalidRequest, match=f"{name} is .*; give a datetime with a time zone"):
            RunFilter.of(**{name: datetime(2026, 1, 1)})


@pytest.mark.parametrize("until", [datetime.min, datetime.max])
def test_a_moment_before_or_after_all_time_ends_a_list_too(services: Services, until: datetime) -> None:
    run = new_run(services).id
    wanted = RunFilter.of(until=until.replace(tzinfo=UTC))
    assert [each.id for each in services.records.page(wanted).runs] == ([run] if until == datetime.max else [])


@pytest.mark.parametrize("hours", [-23, -16, 15, 16, 23])
def test_a_moment_of_any_zone_is_that_moment(services: Services, hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    run = new_run(services).id
    now = services.records.now().astimezone(zone)
    an_hour = timedelta(hours=1)
    assert all_of(services, since=now - an_hour, until=now + an_hour) == [run]
    assert all_of(services, since=now + an_hour) == []
    assert enqueue_run("process", {"command": ["true"]}, start_at=now + an_hour).not_before == now + an_hour


@pytest.mark.parametrize(("year", "hours"), [(1, 1), (9999, -1)])
def test_a_moment_beyond_all_time_is_refused_in_a_sentence(year: int, hours: int) -> None:
    edge = datetime.min if year == 1 else datetime.max
    with pytest.raises(InvalidRequest, match=r"until is .*; give one of the years 1 to 9999"):
        RunFilter.of(until=edge.replace(tzinfo=timezone(timedelta(hours=hours))))


def test_an_id_is_found_by_its_end_and_all_that_fit_are_told(services: Services) -> None:
    run = new_run(services).id
    assert services.records.matching(str(run)[-6:], 5) == [run]
    assert services.records.matching(str(run), 5) == [run]
    assert services.records.matching("0" * 8, 5) == []
    more = [UUID(int=run.int ^ (1 << 70 + bit)) for bit in range(3)]
    insert(services.database, [NewRun(each, "detached", True, {"command": ["true"]}) for each in more])
    assert set(services.records.matching(str(run)[-8:], 10)) == {run, *more}
    assert len(services.records.matching(str(run)[-8:], 2)) == 2
