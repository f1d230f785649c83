"""Commands about the runs that options choose: listed, counted, ended, done again."""

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import Result
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from reprieve.cli.commands import chosen
from reprieve.cli.main import app
from reprieve.client import enqueue
from reprieve.models.errors import InvalidRequest, Unavailable
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_each
from reprieve.workers.finish import finish
from tests.faults.helpers_abf import enqueueing
from tests.support.rows import age, new_run, running, status_of


@pytest.fixture(autouse=True)
def _nobody_hears(services: Services) -> Iterator[None]:
    with enqueueing(services):
        yield


def reprieve(*arguments: str) -> Result:
    done = CliRunner().invoke(app, arguments, catch_exceptions=True)
    if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def ended(services: Services, **changes: Any) -> Any:
    work = running(services, **changes)
    assert finish(services, [End.by_result(work.fence, Outcome.failed("No."), 0)])
    return work.run_id


def test_runs_are_listed_as_they_are_chosen(services: Services) -> None:
    night = new_run(services, lane="night", labels={"team": "data"}).id
    old = new_run(services, labels={"team": "data"}).id
    failed = ended(services, labels={"team": "web"})
    age(services, old, 7300, "created_at")

    def listed(*options: str) -> set[str]:
        return {one["id"] for one in json.loads(reprieve("ps", "--json", *options).stdout)}

    assert listed("--label", "team=data") == {str(night), str(old)}
    assert listed("--lane", "night") == {str(night)}
    assert listed("--error", "adapter_error") == {str(failed)} == listed("--text", "TEAM=w")
    assert listed("--status", "failed", "--status", "queued", "--adapter", "detached") == {
        *map(str, (night, old, failed))
    }
    for since in ("2h", "120m", "7200s", "1h"):
        assert listed("--since", since) == {str(night), str(failed)}, since
    assert len(listed("--since", "1d")) == len(listed("--since", "2000-01-01")) == 3
    assert reprieve("ps", "--lane", "none").stdout == "No run fits.\n"
    for since in ("2x", "yesterday", "999999999d", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"):
        with pytest.raises(InvalidRequest, match="--since"):
            reprieve("ps", "--since", since)


def test_many_are_counted_first_and_ended_with_yes(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "DONE_AT_ONCE", 2)
    queued = [new_run(services, labels={"team": "data"}).id for _ in range(4)]
    work = running(services, labels={"team": "data"})
    others = [new_run(services).id, ended(services, labels={"team": "data"})]
    counted = reprieve("cancel", "--label", "team=data")
    assert counted.exit_code == 1
    assert counted.stderr == "reprieve: 5 runs of that kind. Nothing was done; --yes does it.\n"
    assert {status_of(services, run) for run in queued} == {"queued"}
    done = reprieve("cancel", "--label", "team=data", "--yes")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        "reprieve: 2 of 5 cancelled",
        "reprieve: 4 of 5 cancelled",
        "reprieve: 5 of 5 cancelled",
        "reprieve: 5 runs cancelled.",
    ]
    assert {status_of(services, run) for run in (*queued, work.run_id)} == {"cancelled"}
    assert [status_of(services, run) for run in others] == ["queued", "failed"]
    nothing = reprieve("cancel", "--label", "team=data", "--yes")
    assert (nothing.exit_code, nothing.stderr) == (0, "reprieve: 0 runs of that kind. There is nothing to do.\n")


def test_one_who_stops_it_is_told_how_much_is_done_and_the_rest_stays(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "DONE_AT_ONCE", 2)
    runs = [new_run(services, lane="night").id for _ in range(5)][::-1]
    from reprieve.workers import cancel

    real, calls = cancel.cancel_each, []

    def cut_off(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(cancel, "cancel_each", cut_off)
    done = reprieve("cancel", "--lane", "night", "--yes")
    assert done.exit_code == 130
    assert "Stopped: 2 runs cancelled" in done.stderr
    assert [status_of(services, run) for run in runs] == ["cancelled", "cancelled", *["queued"] * 3]


def test_a_run_that_another_transaction_holds_keeps_none_of_the_others_from_their_end(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "DONE_AT_ONCE", 1)
    *others, held = [new_run(services, lane="night").id for _ in range(3)]
    with services.database.engine.connect() as connection:
        connection.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": held})
        told = CliRunner().invoke(app, ("cancel", "--lane", "night", "--yes"))
    assert isinstance(told.exception, OperationalError)
    assert "Cut off: 2 runs cancelled" in told.stderr
    assert [status_of(services, run) for run in (*others, held)] == ["cancelled", "cancelled", "queued"]
    assert reprieve("cancel", "--lane", "night", "--yes").stderr.endswith("1 run cancelled.\n")


def test_many_are_done_again_and_none_twice_with_one_key(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "DONE_AT_ONCE", 2)
    failed = [ended(services, labels={"team": "data"}) for _ in range(3)][::-1]
    new_run(services, labels={"team": "data"})
    options = ("again", "--label", "team=data", "--idempotency-key", "friday")
    assert "3 runs of that kind" in reprieve(*options).stderr
    done = reprieve(*options, "--yes")
    made = done.stdout.split()
    assert [run.again_of for run in map(services.records.get, map(UUID, made))] == failed
    assert done.stderr.endswith("3 runs done again.\n")
    # Those that were made fit as well, once they have ended; with the same key, they are not done again.
    assert len(cancel_each(services, [UUID(run) for run in made])) == 3
    repeated = reprieve(*options, "--yes")
    assert repeated.stdout.split() == made
    assert "6 runs of that kind" in reprieve("again", "--label", "team=data").stderr


def test_runs_with_keys_of_their_own_are_done_again_whatever_these_begin_with(services: Services) -> None:
    runs = [ended(services, labels={"team": "data"}, idempotency_key=f"friday-{day}") for day in ("1", uuid4())]
    done = reprieve("again", "--label", "team=data", "--idempotency-key", "friday", "--yes")
    assert {services.records.get(UUID(made)).again_of for made in done.stdout.split()} == set(runs)
    assert "There is nothing" not in reprieve("again", "--label", "team=data", "--idempotency-key", "friday").stderr


def test_what_fails_in_the_middle_says_with_which_key_the_others_are_done(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "DONE_AT_ONCE", 2)
    failed = [ended(services, lane="night") for _ in range(3)]
    real, calls = enqueue.again_each, []

    def cut_off(*given: Any) -> Any:
        calls.append(given)
        made = real(*given)
        if len(calls) == 1:
            raise Unavailable("The answer was lost.")
        return made

    monkeypatch.setattr(enqueue, "again_each", cut_off)
    told = CliRunner().invoke(app, ("again", "--lane", "night", "--yes"))
    assert isinstance(told.exception, Unavailable)
    assert "Cut off: 0 runs done again" in told.stderr
    key = re.search(r"--idempotency-key (\S+)", told.stderr)
    assert key
    reprieve("again", "--lane", "night", "--yes", "--idempotency-key", key[1])
    made = [run.again_of for run in services.records.newest() if run.again_of]
    assert sorted(made) == sorted(failed)


def test_one_run_is_done_again_by_a_part_of_its_id(services: Services) -> None:
    first = new_run(services)
    made = reprieve("again", str(first.id)[-12:]).stdout.strip()
    assert services.records.get(UUID(made)).again_of == first.id


@pytest.mark.parametrize("command", ["cancel", "again"])
def test_what_nobody_can_have_meant_is_refused(services: Services, command: str) -> None:
    run = new_run(services)
    unfit = "failed" if command == "cancel" else "running"
    for options, said in [
        ((), "Which runs"),
        (("--yes",), "Which runs"),
        ((str(run.id), "--lane", "night"), "not both"),
        (("--status", unfit, "--yes"), f"not for runs that are {unfit}"),
        (("--label", "team"), "--label"),
        (("--label", "team=data", "--label", "team=web", "--yes"), "two values"),
    ]:
        with pytest.raises(InvalidRequest, match=said):
            reprieve(command, *options)
    assert status_of(services, run.id) == "queued"
    assert len(services.records.newest()) == 1


def test_ps_sorts_and_refuses_an_order_of_what_may_be_millions(services: Services) -> None:
    first, second = new_run(services).id, new_run(services).id
    longest = running(services).run_id
    age(services, longest, 5000, "started_at")
    recent = running(services).run_id

    def listed(*arguments: str) -> list[UUID]:
        done = CliRunner().invoke(app, ["ps", "--json", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return [UUID(run["id"]) for run in json.loads(done.stdout)]

    assert listed("--sort", "oldest", "--status", "queued") == [first, second]
    assert listed("--sort", "longest", "--status", "running") == [longest, recent]
    assert listed("--until", "1d") == []
    with pytest.raises(InvalidRequest, match="ask for status=running with it"):
        CliRunner().invoke(app, ["ps", "--sort", "silent"], catch_exceptions=False)
