"""D03: a run may be final before its tail arrives: closing waits for the last number, bounded, and names any gap."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from reprieve.models.closing import Closing
from reprieve.models.gaps import Gap
from reprieve.models.status import Status
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.reading import LogReader
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from tests.support.rows import chunk, ingest, running

pytestmark = pytest.mark.row("D03")


def ended(services: Services, last_seq: int) -> Work:
    """A run that has ended, naming its last chunk, of which nothing has arrived."""
    work = running(services)
    assert finish(services, [End.by_result(work.fence, Outcome(), last_seq)])
    return work


def end_ago(services: Services, work: Work, seconds: float) -> None:
    statement = text("UPDATE run_attempts SET finished_at = clock_timestamp() - :ago WHERE run_id = :id")
    with services.database.begin() as connection:
        connection.execute(statement, {"ago": timedelta(seconds=seconds), "id": work.run_id})


def shown(services: Services, work: Work) -> list[int | Gap]:
    reader = LogReader(services.database, services.logs, services.live, work.run_id)
    return [item if isinstance(item, Gap) else item.seq for item in reader.stored(1)]


def explained(services: Services, work: Work) -> str:
    return explain(services, work.run_id).text


def test_a_log_is_not_closed_before_its_last_chunk_is_there(services: Services) -> None:
    work = ended(services, last_seq=3)
    ingest(services, [chunk(work, 1), chunk(work, 2)])
    assert close_log(services, work.run_id, 1) is Closing.WAIT
    assert services.archives.find(work.run_id, 1) is None
    ingest(services, [chunk(work, 3, b"the tail")])
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert [one.data for one in services.logs.read(work.run_id, 1)][-1] == b"the tail"
    assert not services.closings.state(work.run_id, 1).missing


@pytest.mark.parametrize(("seconds", "step"), [(55, Closing.WAIT), (61, Closing.DONE)])
def test_a_tail_that_does_not_come_is_waited_for_a_minute_and_then_named(
    services: Services, seconds: float, step: Closing
) -> None:
    work = ended(services, last_seq=5)
    ingest(services, [chunk(work, 1), chunk(work, 3)])
    end_ago(services, work, seconds)
    assert close_log(services, work.run_id, 1) is step
    assert services.closings.find(work.run_id, 1).is_closed is (step is Closing.DONE)
    assert ("lacks the chunks 2, 4-5" in explained(services, work)) is True
    assert shown(services, work) == [1, Gap(1, 2, 2), 3, Gap(1, 4, 5)]


def test_an_end_that_names_no_last_chunk_is_waited_for_a_minute_too(services: Services) -> None:
    work = running(services)
    finish(services, [End.by_cancel(work.fence, from_status=Status.RUNNING)])
    ingest(services, [chunk(work, 1)])
    assert close_log(services, work.run_id, 1) is Closing.WAIT
    end_ago(services, work, 61)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert shown(services, work) == [1]


def test_a_tail_that_comes_after_closing_is_kept_read_and_told(services: Services) -> None:
    work = ended(services, last_seq=3)
    ingest(services, [chunk(work, 1)])
    end_ago(services, work, 61)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    ingest(services, [chunk(work, 1), chunk(work, 2), chunk(work, 3, b"late")])
    assert shown(services, work) == [1, 2, 3]
    assert "the chunks 2-3 came after it was closed" in explained(services, work)
    assert "lacks" not in explained(services, work)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert services.logs.read(work.run_id, 1)[-1].data == b"late"


def test_a_log_of_a_run_that_goes_on_is_left_alone(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    assert close_log(services, work.run_id, 1) is Closing.WAIT
    assert services.closings.owed(10) == []
