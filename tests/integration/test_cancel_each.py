"""Many runs that are ended together: each by the one statement by which runs end, whatever happens meanwhile."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from reprieve.models.work import End, Outcome
from reprieve.workers import cancel
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_each
from reprieve.workers.finish import finish
from tests.support.rows import claim, new_run, running, status_of


def ids(services: Services, count: int) -> list[UUID]:
    return [new_run(services).id for _ in range(count)]


def test_those_that_have_ended_stay_as_they_are_and_the_others_end(services: Services) -> None:
    queued, work, over = new_run(services).id, running(services), running(services)
    assert finish(services, [End.by_result(over.fence, Outcome(), 0)])
    assert cancel_each(services, [queued, work.run_id, over.run_id]) == {queued, work.run_id}
    assert status_of(services, over.run_id) == "succeeded"
    assert cancel_each(services, [queued, work.run_id, over.run_id]) == set()
    assert cancel_each(services, []) == set()
    (attempt,) = services.records.get(work.run_id).attempts
    assert (attempt.termination, attempt.finished_at is None) == ("owed", False)


def test_a_run_that_is_claimed_or_ends_between_the_look_and_the_end_is_looked_at_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, over, calm = ids(services, 3)
    real, turns = cancel.finish_free, []

    def meanwhile(*given: Any) -> Any:
        if not turns:
            claim(services, claimed, "worker@nowhere")
            work = claim(services, over, "worker@nowhere")
            assert work is not None
            finish(services, [End.by_result(work.fence, Outcome(), 0)])
        turns.append(given)
        return real(*given)

    monkeypatch.setattr(cancel, "finish_free", meanwhile)
    assert cancel_each(services, [claimed, over, calm]) == {claimed, calm}
    assert [status_of(services, run) for run in (claimed, over, calm)] == ["cancelled", "succeeded", "cancelled"]


def test_a_run_that_another_transaction_holds_is_waited_for_and_holds_up_none_of_the_others(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, *others = ids(services, 4)
    real = cancel.finish
    with services.database.engine.connect() as connection:
        connection.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": held})

        def once_the_others_have_ended(*given: Any) -> Any:
            assert {status_of(services, run) for run in others} == {"cancelled"}
            connection.rollback()
            return real(*given)

        monkeypatch.setattr(cancel, "finish", once_the_others_have_ended)
        assert cancel_each(services, [held, *others]) == {held, *others}
