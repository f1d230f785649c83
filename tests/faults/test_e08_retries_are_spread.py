"""E08: a fault that ends many runs does not start them all again at once, nor for ever."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import bury
from tests.support.rows import age, claim, in_process, pass_the_wait, status_of, watch_for

pytestmark = pytest.mark.row("E08")


def reap_all(services: Services, works: list) -> None:
    """Sweeps until the brake has let all of them through."""
    for work in works:
        age(services, work.run_id, 400)
    for _ in range(30):
        watch_for(services, 3600)
        if sweep(services, by_hand=True)["judged"] == 0:
            return
    raise AssertionError("suspects are left")


def test_a_hundred_that_fail_together_are_retried_over_a_minute_and_no_more_often_than_asked(
    services: Services,
) -> None:
    works = [in_process(services, max_attempts=2) for _ in range(100)]
    before = services.database.now()
    reap_all(services, works)
    waits = [services.runs.get(work.run_id).not_before for work in works]
    after = services.database.now() + timedelta(seconds=60)
    assert all(before <= at < after for at in waits)
    by_seconds = {int((at - before).total_seconds()) for at in waits}
    assert len(by_seconds) > 30
    bury(services)
    early = [work for work in works if claim(services, work.run_id, "worker@test")]
    assert len(early) < 50  # The first of them may be due by now.
    for work in works:
        pass_the_wait(services, work.run_id)
        claim(services, work.run_id, "worker@test")
    assert {services.runs.get(work.run_id).attempt for work in works} == {2}
    reap_all(services, works)
    assert {status_of(services, work.run_id) for work in works} == {"failed"}
    with services.database.begin() as connection:
        assert connection.execute(text("SELECT max(attempt), count(*) FROM run_attempts")).one() == (2, 200)


def test_a_retry_that_waits_is_not_sent_for_before_its_time_and_is_afterwards(services: Services) -> None:
    work = in_process(services, max_attempts=2)
    reap_all(services, [work])
    bury(services)
    with services.database.begin() as connection:
        statement = text("UPDATE runs SET not_before = clock_timestamp() + interval '50 s' WHERE id = :id")
        connection.execute(statement, {"id": work.run_id})
    age(services, work.run_id, 3600)
    assert claim(services, work.run_id, "worker@test") is None
    assert services.resends.unclaimed(services.timing.resend_after, 6) == []
    pass_the_wait(services, work.run_id)
    assert services.resends.unclaimed(services.timing.resend_after, 6) == [work.run_id]
    assert claim(services, work.run_id, "worker@test") is not None
