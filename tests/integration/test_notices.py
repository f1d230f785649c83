"""What happens to a run is owed to whom it concerns, in the transaction in which it happens."""

from uuid import UUID

import pytest
from sqlalchemy import text

from reprieve.models.notice_rules import checked_rule
from reprieve.models.notices import NoticeState, Told
from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.runs.ends import write_ends
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import age, happened, new_run, running

HERE, THERE = "https://here.example/hook", "https://there.example/hook"


def owed(services: Services) -> list[Told]:
    return sorted(services.notices.in_state(NoticeState.OWED), key=lambda one: (one.url, one.kind))


def told(services: Services) -> list[tuple[str, str]]:
    return [(one.kind, one.url) for one in owed(services)]


def rule(services: Services, name: str = "all", url: str = HERE, **of: object) -> None:
    services.notices.put_rule(checked_rule(name, url, **of))  # type: ignore[arg-type]


def succeed(services: Services, work: Work) -> None:
    assert finish(services, [End.by_result(work.fence, Outcome(), 0)])


def reap(work: Work, status: Status) -> End:
    code = ErrorCode.PROCESS_LOST if status is Status.FAILED else None
    return End(work.fence, status, EventKind.REAPED, code, detail={"retry": status is Status.QUEUED})


def test_a_run_without_addresses_in_a_fleet_without_rules_owes_nobody_anything(services: Services) -> None:
    succeed(services, running(services))
    assert owed(services) == []


def test_the_end_of_a_run_is_owed_to_each_of_its_addresses_and_to_each_rule_that_fits(services: Services) -> None:
    rule(services, url=THERE)
    rule(services, "others", "https://elsewhere.example/", labels={"team": "web"})
    work = running(services, notify=[HERE], labels={"team": "data"})
    succeed(services, work)
    assert told(services) == [("succeeded", HERE), ("succeeded", THERE)]
    assert {(one.run_id, one.attempt, one.rule) for one in owed(services)} == {
        (work.run_id, 1, None),
        (work.run_id, 1, "all"),
    }


def test_an_address_of_a_run_that_has_a_rule_too_is_told_once(services: Services) -> None:
    rule(services)
    rule(services, "again")
    succeed(services, running(services, notify=[HERE, HERE]))
    assert told(services) == [("succeeded", HERE)]


@pytest.mark.parametrize(
    ("of", "fits"),
    [
        ({"labels": {"team": "data"}}, True),
        ({"labels": {"team": "data", "day": "today"}}, False),
        ({"lane": "night"}, True),
        ({"lane": "default"}, False),
        ({"kinds": ["succeeded"]}, True),
        ({"kinds": ["failed", "cancelled", "reaped", "retried", "quiet", "suspected"]}, False),
        ({"kinds": ["succeeded"], "lane": "night", "labels": {"team": "data"}}, True),
        ({"kinds": ["succeeded"], "lane": "day", "labels": {"team": "data"}}, False),
    ],
)
def test_a_rule_is_for_runs_with_its_labels_in_its_lane_and_for_what_it_names(
    services: Services, of: dict[str, object], fits: bool
) -> None:
    rule(services, **of)
    succeed(services, running(services, lane="night", labels={"team": "data", "by": "me"}))
    assert bool(owed(services)) is fits


@pytest.mark.parametrize(
    ("status", "kinds", "fits"),
    [
        (Status.FAILED, ["failed"], True),
        (Status.FAILED, ["retried"], False),
        (Status.QUEUED, ["retried"], True),
        (Status.QUEUED, ["failed"], False),
        (Status.QUEUED, ["reaped"], True),
    ],
)
def test_a_reap_is_told_as_such_and_to_whoever_is_told_of_what_became_of_the_run(
    services: Services, status: Status, kinds: list[str], fits: bool
) -> None:
    rule(services, kinds=kinds)
    assert finish(services, [reap(running(services, max_attempts=2), status)])
    assert told(services) == ([("reaped", HERE)] if fits else [])


def test_a_failure_that_another_attempt_follows_is_told_as_a_retry(services: Services) -> None:
    rule(services)
    work = running(services, max_attempts=2)
    assert finish(services, [End(work.fence, Status.QUEUED, EventKind.FAILED)])
    assert told(services) == [("retried", HERE)]


def test_a_quiet_run_and_one_that_waits_again_are_told_and_what_is_nobodys_business_is_not(services: Services) -> None:
    run = new_run(services, notify=[HERE])
    for kind in EventKind:
        if kind is not EventKind.ENQUEUED:
            happened(services, run.id, kind, 1)
    # Nothing has become of it: it is queued.
    kinds = sorted(kind for kind, _ in told(services))
    assert kinds == ["cancelled", "quiet", "reaped", "retried", "retried", "succeeded"]


def test_an_end_that_is_rolled_back_owes_nothing(services: Services) -> None:
    work = running(services, notify=[HERE])
    with pytest.raises(ZeroDivisionError), services.database.begin() as connection:
        assert write_ends(connection, [End.by_result(work.fence, Outcome(), 0)])
        _ = 1 / 0
    assert owed(services) == []


def spare(services: Services, run_id: UUID, judgement: str, silent_since: str = "2026-01-01T00:00:00Z") -> None:
    statement = text(
        "INSERT INTO sparings (run_id, attempt, silent_since, judgement, detail) "
        "VALUES (:run, 1, :since, :judgement, '{}') ON CONFLICT (run_id, attempt, silent_since, judgement) "
        "DO UPDATE SET times = sparings.times + 1"
    )
    with services.database.begin() as connection:
        connection.execute(statement, {"run": run_id, "judgement": judgement, "since": silent_since})


def test_a_silence_is_told_once_however_often_the_run_is_spared_in_it(services: Services) -> None:
    run = running(services, notify=[HERE]).run_id
    for judgement in ("spare_unknown", "spare_unknown", "spare_braked"):
        spare(services, run, judgement)
    assert told(services) == [("suspected", HERE)]
    spare(services, run, "spare_unknown", "2026-01-01T01:00:00Z")
    assert told(services) == [("suspected", HERE)] * 2


def test_notices_are_owed_whatever_the_search_path_of_the_writer_is(services: Services) -> None:
    run = new_run(services, notify=[HERE])
    with services.database.begin() as connection:
        connection.execute(text("SET LOCAL search_path = ''"))
        connection.execute(
            text("INSERT INTO public.run_events (run_id, attempt, kind) VALUES (:run, 0, 'cancelled')"), {"run": run.id}
        )
    assert told(services) == [("cancelled", HERE)]


@pytest.mark.parametrize("notify", ["null", '"https://here.example"', "{}", "[]", "[null]"])
def test_addresses_that_are_none_keep_no_run_from_its_end(services: Services, notify: str) -> None:
    work = running(services)
    with services.database.begin() as connection:
        connection.execute(
            text("UPDATE run_specs SET notify = CAST(:notify AS jsonb) WHERE run_id = :run"),
            {"notify": notify, "run": work.run_id},
        )
    succeed(services, work)
    assert owed(services) == []


def test_while_it_is_snoozed_nobody_is_told_that_a_run_is_quiet_and_all_else_is_told(services: Services) -> None:
    run = running(services, notify=[HERE]).run_id
    age(services, run, -60, "snoozed_until")
    happened(services, run, EventKind.QUIET, 1)
    happened(services, run, EventKind.RETRIED, 1)
    assert told(services) == [("retried", HERE)]
    age(services, run, 1, "snoozed_until")
    happened(services, run, EventKind.QUIET, 1)
    assert told(services) == [("quiet", HERE), ("retried", HERE)]


def test_the_longest_address_keeps_no_run_from_its_end(services: Services) -> None:
    """An index has no room for a host of thousands of bytes."""
    url = "https://" + "".join(f"{number:x}" for number in range(900))[:1990] + "/"
    work = running(services, notify=[url])
    succeed(services, work)
    assert told(services) == [("succeeded", url)]
