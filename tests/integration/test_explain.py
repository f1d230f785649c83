"""What `reprieve explain` and `ps` tell of a suspect: why it was spared, why it was reaped, what came later."""

import json
import re
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from reprieve.cli.main import app
from reprieve.models.status import ErrorCode, EventKind, Probe
from reprieve.models.work import End, Outcome, Work
from reprieve.workers import sweep as sweeping
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.support.following import follow_to_the_end
from tests.support.rows import age, chunk, in_process, ingest, kinds, running, status_of, watch_for
from tests.support.shipping import direct_shipper


def told(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Callable[[Probe | None], None]:
    """What every platform says of everything; None: there is none to ask."""

    def says(answer: Probe | None) -> None:
        answers = lambda services, tokens: {one.run_id: answer for one in tokens} if answer else {}  # noqa: E731
        monkeypatch.setattr(sweeping, "ask", answers)

    says(None)
    return says


def silent_after_output(services: Services, seconds: float = 312) -> Work:
    work = running(services)
    ingest(services, [chunk(work, seq) for seq in range(1, 4108)])
    age(services, work.run_id, seconds)
    watch_for(services, 3600)
    return work


def test_a_reap_is_told_with_its_silence_its_last_chunk_the_pipeline_and_the_platforms_word(
    services: Services, platform: Callable[[Probe | None], None]
) -> None:
    work = silent_after_output(services)
    platform(Probe.DEAD)
    assert sweep(services)["reaped"] == 1
    text = " ".join(told("explain", work.run_id).split())
    # The sweep comes a moment after, however long that is on a busy machine.
    assert re.search(
        r"Attempt 1 was silent for 5 min [1-5]\d s \(window 5 min 0 s\)\. Its last proof of life was ", text
    )
    assert "Its last proof of life was output, at " in text
    assert "its last stored output was chunk 4,107; worker@nowhere followed it." in text
    assert re.search(r"the log pipeline was [1-9]\.\d s behind", text)
    assert "Its platform said that it was gone. So it was reaped at " in text
    assert "UTC as adapter_liveness_lost, and failed." in text


def test_a_run_of_which_nothing_is_stored_and_nobody_can_be_asked_is_told_as_such(
    services: Services, platform: Callable[[Probe | None], None]
) -> None:
    work = running(services)
    age(services, work.run_id, 400)
    watch_for(services, 3600)
    sweep(services)
    text = " ".join(told("explain", work.run_id).split())
    assert "no output of it is stored; worker@nowhere followed it." in text
    assert "There was no platform to ask. So it was reaped" in text


def test_each_sparing_is_told_with_its_reason_and_how_often_it_came(
    services: Services, platform: Callable[[Probe | None], None]
) -> None:
    work = silent_after_output(services)
    platform(Probe.UNKNOWN)
    for _ in range(3):
        sweep(services, by_hand=True)
    text = " ".join(told("explain", work.run_id).split())
    assert "Attempt 1 was suspect and spared 3 times, last at " in text
    assert re.search(r"its platform could not say whether it lives: it was then silent for 5 min [1-5]\d s", text)
    (sparing,) = json.loads(told("explain", work.run_id, "--json"))["sparings"]
    assert (sparing["judgement"], sparing["times"], sparing["detail"]["probe"]) == ("spare_unknown", 3, "unknown")


def test_a_brake_is_told_to_whom_it_spared(services: Services, platform: Callable[[Probe | None], None]) -> None:
    works = [in_process(services) for _ in range(12)]
    for number, work in enumerate(works):
        age(services, work.run_id, 400 + number)
    watch_for(services, 3600)
    sweep(services)
    text = " ".join(told("explain", works[0].run_id).split())
    assert "spared once at " in text
    assert "too many were convicted at once, and others had been silent for longer" in text
    assert "With it, 12 of 12 runs looked dead; 10 are reaped." in text


@pytest.mark.usefixtures("platform")
def test_output_after_a_reap_is_kept_flagged_and_shown_in_the_list(services: Services) -> None:
    work = silent_after_output(services)
    sweep(services)
    assert "signs of life" not in told("ps")
    assert ingest(services, [chunk(work, 4108, b"still here\n")])["new"] == 1
    assert "Output of attempt 1 came at " in told("explain", work.run_id)
    assert "adapter_liveness_lost (gave signs of life later)" in told("ps")
    assert services.logs.last_seq(work.run_id, 1) == 4108


@pytest.mark.usefixtures("platform")
def test_output_after_an_end_that_was_no_reap_is_nothing_to_tell(services: Services) -> None:
    work = running(services)
    finish(services, [End.by_result(work.fence, Outcome(), 1)])
    ingest(services, [chunk(work, 1)])
    assert kinds(services, work.run_id)[-1] == EventKind.SUCCEEDED


def finished_late(services: Services, work: Work, outcome: Outcome) -> str:
    """What a follower reports that was not told that its run was reaped."""
    shipper = direct_shipper(services)
    return follow_to_the_end(services, RunContext(services, shipper, work), lambda *_: outcome)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("outcome", [Outcome(), Outcome.failed("exit 3", ErrorCode.EXIT_STATUS)], ids=["well", "badly"])
def test_a_result_after_a_reap_changes_nothing_and_is_flagged(services: Services, outcome: Outcome) -> None:
    work = silent_after_output(services)
    sweep(services)
    assert finished_late(services, work, outcome) == "superseded"
    assert status_of(services, work.run_id) == "failed"
    assert services.runs.get(work.run_id).error_code == "adapter_liveness_lost"
    assert kinds(services, work.run_id)[-2:] == ["reaped", "late_result"]
    assert "A result of attempt 1 came at " in told("explain", work.run_id)
    assert finished_late(services, work, outcome) == "superseded"
    assert kinds(services, work.run_id).count("late_result") == 1
    assert [(one.adapter, one.reaped, one.suspected_false) for one in services.sweeps.account()] == [("detached", 1, 1)]


@pytest.mark.usefixtures("platform")
def test_a_child_that_our_own_signal_ended_after_the_reap_gave_no_sign_of_life(services: Services) -> None:
    work = silent_after_output(services)
    sweep(services)
    assert finished_late(services, work, Outcome.of_exit(-15)) == "superseded"
    assert kinds(services, work.run_id)[-1] == "reaped"
