"""The first output of a log, which for most runs is all of it: stored in few statements, and each number once."""

import threading
from typing import Any

import pytest
from sqlalchemy import event

from reprieve.models.chunks import Chunk, blocks_of
from reprieve.models.work import Work
from reprieve.stores import logs as module
from reprieve.stores.logs import TooScattered
from reprieve.workers.bootstrap import Services
from reprieve.workers.ingest import ingest
from tests.support.rows import chunk, in_process, running


def numbers(services: Services, work: Work) -> list[int]:
    return [one.seq for one in services.logs.read(work.run_id, work.attempt)]


def test_the_first_output_of_many_runs_costs_three_statements(services: Services) -> None:
    works = [in_process(services) for _ in range(50)]
    seen: list[str] = []

    def note(*given: Any) -> None:
        seen.append(given[2])

    event.listen(services.database.engine, "after_cursor_execute", note)
    try:
        ingest(services, blocks_of(chunk(work, seq) for work in works for seq in (1, 2)))
    finally:
        event.remove(services.database.engine, "after_cursor_execute", note)
    assert len(seen) == 3, seen
    assert all(numbers(services, work) == [1, 2] for work in works)


def test_a_message_with_what_is_new_known_superseded_and_repeated_stores_each_number_once(services: Services) -> None:
    new, known, superseded = running(services), running(services), running(services)
    ingest(services, blocks_of([chunk(known, 1), chunk(superseded, 1)]))
    with services.database.begin() as connection:
        services.logs.resume(connection, superseded.run_id, 1, 2)
    blocks = blocks_of(
        [
            *(chunk(new, seq) for seq in (1, 2, 4)),
            *(chunk(known, seq) for seq in (1, 2)),
            chunk(superseded, 2),
        ]
    )
    for _ in range(2):
        with services.database.begin() as connection:
            stored = services.logs.append(connection, [*blocks, *blocks])
    assert stored == [], "the second time, nothing is new"
    assert [numbers(services, work) for work in (new, known, superseded)] == [[1, 2, 4], [1, 2], []]
    told = services.logs.stored([(work.run_id, 1, 1) for work in (new, known)])
    assert [str(told[work.run_id, 1, 1]) for work in (new, known)] == ["1-2, 4", "1-2"]


def test_two_messages_that_begin_the_same_logs_store_each_number_once(services: Services) -> None:
    works = [running(services) for _ in range(30)]
    threads = [
        threading.Thread(
            target=ingest, args=(services, blocks_of(chunk(work, seq) for work in works for seq in range(first, 5)))
        )
        for first in (1, 2, 3, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(numbers(services, work) == [1, 2, 3, 4] for work in works)


def test_a_first_message_with_more_gaps_than_a_log_may_have_is_refused(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RANGES", 3)
    work, other = running(services), running(services)
    scattered = [Chunk(work.run_id, 1, 1, seq, "stdout", b"x") for seq in (1, 3, 5, 7)]
    with pytest.raises(TooScattered), services.database.begin() as connection:
        services.logs.append(connection, blocks_of([*scattered, chunk(other, 1)]))
    assert numbers(services, work) == numbers(services, other) == []
    ingest(services, blocks_of(scattered[:3]))
    assert numbers(services, work) == [1, 3, 5]
