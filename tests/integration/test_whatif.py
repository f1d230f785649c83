"""`reprieve whatif`, over attempts that were silent for so long, and ended so."""

import json
from datetime import timedelta
from typing import Any

from redis import Redis
from sqlalchemy import text
from typer.testing import CliRunner

from reprieve.cli.main import app
from reprieve.models.status import EventKind, Status
from reprieve.models.work import End, Outcome, Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.support.rows import age, chunk, claim, in_process, ingest, running, settle, watch_for


def asked(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["whatif", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def succeed_after(services: Services, work: Work, silence: float) -> None:
    age(services, work.run_id, silence)
    assert finish(services, [End.by_result(work.fence, Outcome(), 0)])


def test_it_counts_who_would_have_been_reaped_and_what_became_of_them(services: Services, redis: Redis) -> None:
    for silence in (10, 170, 190, 250):
        succeed_after(services, in_process(services), silence)
    failed, again, still = running(services), in_process(services, max_attempts=2), in_process(services)
    age(services, failed.run_id, 200)
    finish(services, [End.by_result(failed.fence, Outcome.failed("no"), 0)])
    # Lost in its first attempt after a silence, and succeeded in its second: the first did not succeed.
    age(services, again.run_id, 210)
    finish(services, [End(again.fence, Status.QUEUED, EventKind.RETRIED)])
    settle(services, again)
    second = claim(services, again.run_id, "worker@elsewhere")
    assert second is not None
    succeed_after(services, second, 20)
    age(services, still.run_id, 280)  # It goes on: nothing is known of it yet.
    reaped = running(services)
    age(services, reaped.run_id, 320)
    watch_for(services, 3600)
    assert sweep(services, by_hand=True)["reaped"] == 1
    ingest(services, [chunk(reaped, 1)])  # It gave a sign of life after all.

    found = asked("--window", 180, "--window", 600)
    assert (found["attempts"], found["days"], found["window_seconds"]) == (8, 7, 300)
    three, ten = found["windows"]
    assert three == {"window": 180, "silent": 5, "succeeded": 2, "reaped": 1, "waited_for": 0, "came_late": 0}
    assert ten == {"window": 600, "silent": 0, "succeeded": 0, "reaped": 0, "waited_for": 1, "came_late": 1}


def test_it_says_so_in_sentences_and_what_they_are_worth(services: Services) -> None:
    succeed_after(services, in_process(services), 200)
    told = CliRunner().invoke(app, ["whatif", "--window", "180"], catch_exceptions=False).output
    assert "Of 1 attempts that have ended" in told
    assert "at 180 s, 1 attempt would have been reaped; 1 of them succeeded later, 0 were reaped in fact." in told
    assert "These are upper bounds: silence counts here while we were blind or deaf" in told


def test_runs_of_other_days_and_attempts_of_which_no_silence_is_known_do_not_count(services: Services) -> None:
    old, unknown, both = (in_process(services) for _ in range(3))
    for one in (old, unknown, both):
        succeed_after(services, one, 200)
    with services.database.begin() as connection:
        values = {"id": unknown.run_id}
        connection.execute(text("UPDATE run_attempts SET longest_silence = NULL WHERE run_id = :id"), values)
    assert asked("--window", 180)["windows"][0]["silent"] == 2
    assert asked("--window", 180)["attempts"] == 2
    with services.database.begin() as connection:
        now = connection.execute(text("SELECT clock_timestamp() + interval '8 days'")).scalar_one()
    from reprieve.models.whatif import total
    from reprieve.stores.silences import count_ended, shadows

    window = timedelta(seconds=180)
    assert count_ended(services.database, 7, now) == 0
    assert total(shadows(services.database, [window], 7, now), [window])[0].silent == 0
    assert count_ended(services.database, 9, now) == 2
