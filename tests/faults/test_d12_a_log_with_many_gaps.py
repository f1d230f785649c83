"""D12: a log with many gaps costs what its gaps cost, once; and there is an end to how many it may have."""

import logging
import time
from collections.abc import Callable

import pytest

from reprieve.models import sequences
from reprieve.models.chunks import Block, blocks_of
from reprieve.models.closing import Closing
from reprieve.models.gaps import Gap
from reprieve.models.records import LISTED_RANGES
from reprieve.models.sequences import SHOWN_RANGES, SeqRanges
from reprieve.models.work import End, Outcome, Work
from reprieve.stores import logs as log_store
from reprieve.stores.reading import LogReader
from reprieve.stores.runs.ends import write_ends
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.explaining import explain
from tests.support.http import calling
from tests.support.rows import chunk, running

pytestmark = pytest.mark.row("D12")

GAPS = 10_000


def every_second(work: Work, gaps: int) -> list[Block]:
    """Chunks 1, 3, 5 …: so many gaps."""
    return blocks_of(chunk(work, 2 * number + 1) for number in range(gaps + 1))


def scattered(services: Services, gaps: int) -> Work:
    work = running(services)
    ingesting.ingest(services, every_second(work, gaps))
    return work


def end(services: Services, work: Work, last_seq: int) -> None:
    with services.database.begin() as connection:
        write_ends(connection, [End.by_result(work.fence, Outcome(), last_seq)])


def took(act: Callable[[], object]) -> float:
    """The shorter of two tries, in seconds of this process's own work: the machine may be busy."""
    times = []
    for _ in range(2):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return min(times)


def test_sets_with_many_ranges_are_added_subtracted_and_asked_in_one_pass() -> None:
    some = SeqRanges.of((4 * n + 1, 4 * n + 2) for n in range(GAPS))
    others = SeqRanges.of((4 * n + 2, 4 * n + 3) for n in range(GAPS))
    whole = SeqRanges.of([(1, 4 * GAPS)])

    def arithmetic() -> None:
        assert len(some - others) == len(whole - some) == len(some | others) == GAPS
        assert not some - whole
        assert some.missing(4 * GAPS) == whole - some

    assert took(arithmetic) < 0.5

    def asked() -> None:
        assert not any(some.covers(4 * n + 2, 4 * n + 3) for n in range(GAPS))
        assert all(4 * n + 1 in some for n in range(GAPS))

    assert took(asked) < 0.5


def test_ingest_explain_and_closing_of_a_log_with_ten_thousand_gaps_hold_up_nobody(services: Services) -> None:
    work = scattered(services, GAPS)
    last_seq = 2 * GAPS + 1
    numbers = iter(range(last_seq + 2, last_seq + 10, 2))
    assert took(lambda: ingesting.ingest(services, blocks_of([chunk(work, next(numbers))]))) < 0.1
    assert took(lambda: explain(services, work.run_id).text) < 0.2
    end(services, work, last_seq)
    with services.database.begin() as connection:
        connection.exec_driver_sql("UPDATE run_attempts SET finished_at = finished_at - interval '2 minutes'")
    began = time.process_time()
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert time.process_time() - began < 2
    archive = services.archives.find(work.run_id, 1)
    assert archive is not None
    assert len(archive.gaps) == GAPS + 2


def test_one_message_of_ten_thousand_pieces_is_taken_in_one_pass(services: Services) -> None:
    work = running(services)
    even = blocks_of(chunk(work, 2 * number + 2) for number in range(GAPS))
    odd = every_second(work, GAPS)
    assert took(lambda: ingesting.ingest(services, odd)) < 3
    assert took(lambda: ingesting.ingest(services, [*even, *odd])) < 3
    assert str(services.closings.state(work.run_id, 1).stored) == f"1-{2 * GAPS + 1}"


def test_what_a_reader_is_shown_of_many_gaps_is_bounded_and_says_how_many_more(services: Services) -> None:
    work = scattered(services, 500)
    end(services, work, 1001)
    with services.database.begin() as connection:
        connection.exec_driver_sql("UPDATE run_attempts SET finished_at = finished_at - interval '2 minutes'")
    told = explain(services, work.run_id)
    [sentence] = [line for line in told.sentences if "lacks" in line]
    assert sentence.count(",") == SHOWN_RANGES - 1
    assert f"and {500 - SHOWN_RANGES} more" in sentence
    [log] = told.record.logs
    assert (len(log.missing), log.unlisted) == (LISTED_RANGES, 500 - LISTED_RANGES)
    with calling(services) as client:
        answer = client.get(f"/v1/runs/{work.run_id}/attempts/1/output/stdout")
    assert len(answer.headers["Reprieve-Missing-Chunks"]) < 500


def test_gaps_that_stay_are_read_past_in_one_pass(services: Services) -> None:
    work = running(services)
    ingesting.ingest(services, every_second(work, 2_000))
    with services.database.begin() as connection:
        for number in range(2_000):
            [block] = blocks_of([chunk(work, 2 * number + 2)])
            services.logs.quarantine(connection, block, "a test's")
    end(services, work, 4_001)

    def read() -> None:
        follower = LogReader(services.database, services.logs, services.live, work.run_id)
        items = list(follower.follow())
        assert sum(isinstance(item, Gap) for item in items) == 2_000
        assert len(items) == 4_001

    assert took(read) < 3


def test_a_log_in_more_pieces_than_there_may_be_takes_what_fills_its_gaps_and_keeps_the_rest_aside(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_store, "MAX_RANGES", 10)
    work, other = running(services), running(services)
    report = ingesting.ingest(services, every_second(work, 9))
    assert (report["new"], report["refused"]) == (10, 0)
    with caplog.at_level(logging.ERROR):
        report = ingesting.ingest(
            services, blocks_of([chunk(work, 2), chunk(work, 20), chunk(work, 41), chunk(work, 43), chunk(other, 1)])
        )
    assert (report["new"], report["refused"]) == (3, 2)
    assert "in 10 pieces, which is as many as there may be" in caplog.text
    state = services.closings.state(work.run_id, 1)
    assert str(state.log.aside) == "41, 43"
    assert 20 in state.stored
    assert state.stored.covers(1, 3)
    assert [one.data for one in services.logs.read(other.run_id, 1)] == [b"line\n"]


def test_at_the_bound_a_log_still_takes_all_that_follows_on_it(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_store, "MAX_RANGES", 10)
    work = running(services)
    ingesting.ingest(services, every_second(work, 9))
    report = ingesting.ingest(services, blocks_of(chunk(work, seq) for seq in range(20, 400)))
    assert (report["new"], report["refused"]) == (380, 0)


def test_a_set_tells_all_of_its_ranges_up_to_a_bound() -> None:
    just = SeqRanges.of((2 * n + 1, 2 * n + 1) for n in range(SHOWN_RANGES))
    assert "more" not in str(just)
    assert str(just | SeqRanges.of([(1000, 1000)])).endswith(" and 1 more")
    assert sequences.MAX_RANGES > GAPS
