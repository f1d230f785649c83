"""G07: what comes from outside bears the token of its run; a report without it proves, stores and ends nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import text

from reprieve.models.errors import InvalidRequest, TokenRefused
from reprieve.models.status import Proof
from reprieve.models.work import Work
from reprieve.stores.throttle import proof_key
from reprieve.workers import reporting
from reprieve.workers.bootstrap import Services
from tests.faults.helpers_cdeg import image
from tests.support.remote import lines, remote_with_token
from tests.support.rows import age, in_process, updated_at

pytestmark = pytest.mark.row("G07")

Report = Callable[[Services, Work, object], Any]

REPORTS: dict[str, Report] = {
    "output": lambda services, work, token: reporting.append(services, work.run_id, token, 1, lines(b"forged")),
    "a heartbeat": lambda services, work, token: reporting.heartbeat(services, work.run_id, token),
    "a result": lambda services, work, token: reporting.record_result(
        services, work.run_id, token, {"exit_status": 0}, 0
    ),
    "nonsense": lambda services, work, token: reporting.append(services, work.run_id, token, "one", 7),
}


def everything(services: Services, redis: Redis, work: Work) -> Any:
    """All that a report could change: the rows, what happened, the log, the throttle's key."""
    with services.database.begin() as connection:
        counts = [
            connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("attempt_logs", "log_segments", "log_quarantine")
        ]
    return image(services, work), counts, redis.exists(proof_key(work.run_id))


def an_old_token(services: Services, work: Work) -> str:
    old = services.tokens.issue(work.run_id)
    services.tokens.issue(work.run_id)
    return old


def almost_the_token(services: Services, work: Work) -> str:
    right = services.tokens.issue(work.run_id)
    return right[:-1] + ("A" if right[-1] != "A" else "B")


FORGED: dict[str, Callable[[Services, Work], object]] = {
    "a wrong one": lambda services, work: "x" * 43,
    "another run's": lambda services, work: remote_with_token(services)[1],
    "none": lambda services, work: None,
    "an empty one": lambda services, work: "",
    "no text": lambda services, work: 7,
    "half a surrogate pair": lambda services, work: "\ud800",
    "an old one": an_old_token,
    "all but its end": almost_the_token,
}


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("forged", FORGED)
def test_a_report_without_the_token_of_its_run_changes_nothing(
    services: Services, redis: Redis, report: str, forged: str
) -> None:
    work, _ = remote_with_token(services)
    age(services, work.run_id, 100)
    token = FORGED[forged](services, work)
    before = everything(services, redis, work)
    with pytest.raises(TokenRefused, match="The token is not the one of run") as refused:
        REPORTS[report](services, work, token)
    assert everything(services, redis, work) == before
    assert len(str(token)) < 10 or str(token) not in str(refused.value)


def test_a_run_that_was_given_no_token_is_reported_by_nobody(services: Services, redis: Redis) -> None:
    work, other = remote_with_token(services)[0], in_process(services)
    before = everything(services, redis, other)
    for report in REPORTS.values():
        with pytest.raises(TokenRefused):
            report(services, other, services.tokens.issue(work.run_id))
    assert everything(services, redis, other) == before


def test_output_with_the_token_is_proof_of_life(services: Services) -> None:
    work, token = remote_with_token(services)
    age(services, work.run_id, 100)
    before = updated_at(services, work.run_id)
    reporting.append(services, work.run_id, token, 1, lines(b"true"))
    assert updated_at(services, work.run_id) > before
    assert services.runs.get(work.run_id).last_proof == Proof.OUTPUT


def test_a_heartbeat_with_the_token_is_proof_of_life(services: Services) -> None:
    work, token = remote_with_token(services)
    age(services, work.run_id, 100)
    before = updated_at(services, work.run_id)
    reporting.heartbeat(services, work.run_id, token)
    assert updated_at(services, work.run_id) > before
    assert services.runs.get(work.run_id).last_proof == Proof.HEARTBEAT


def test_output_that_comes_again_is_no_second_proof_of_life(services: Services, redis: Redis) -> None:
    work, token = remote_with_token(services)
    reporting.append(services, work.run_id, token, 1, lines(b"once"))
    services.throttle.forget([work.run_id])
    before = everything(services, redis, work)
    reporting.append(services, work.run_id, token, 1, lines(b"once"))
    assert everything(services, redis, work) == before


def test_of_a_token_only_its_hash_is_kept(services: Services) -> None:
    work, token = remote_with_token(services)
    with services.database.begin() as connection:
        kept = connection.execute(text("SELECT t::text FROM run_tokens t")).scalars().all()
    assert len(kept) == 1
    assert token not in kept[0]
    assert token.encode().hex() not in kept[0]
    assert services.tokens.check(work.run_id, token)


def test_a_run_whose_worker_reports_for_it_gets_no_token(services: Services) -> None:
    work = in_process(services)
    with pytest.raises(InvalidRequest, match="is of the adapter 'process', whose worker reports for it"):
        reporting.new_token(services, work.run_id)
    assert reporting.new_token(services, remote_with_token(services)[0].run_id)
