"""What is reported by a run's token: numbered output, the word to stop, the one result; and the place it is held in."""

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis
from typer.testing import CliRunner

from reprieve import cancel_run
from reprieve.adapters import registry
from reprieve.adapters.kinds import validate_config
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.registry import find_adapter
from reprieve.adapters.remote import RemoteAdapter
from reprieve.cli.main import app
from reprieve.models.chunks import MAX_CHUNK_BYTES
from reprieve.models.errors import InvalidRequest, Released, RunNotFound
from reprieve.models.status import Status
from reprieve.models.work import Outcome, Work
from reprieve.workers import reporting
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.reporting import MAX_CHUNKS, MAX_REPORT_BYTES, append, heartbeat, record_result
from reprieve.workers.supervisor import Supervisor
from tests.faults.helpers_cdeg import image, reap
from tests.support.following import follow_to_the_end, go_on, start
from tests.support.nodes import a_node
from tests.support.remote import lines, remote, remote_with_token, waiting_with_token
from tests.support.rows import claim, kinds, new_run, status_of
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is known, whichever others are installed here."""
    monkeypatch.setattr(registry, "adapter_classes", lambda: {"remote": RemoteAdapter})


def stored(services: Services, run_id: UUID, attempt: int = 1) -> list[tuple[int, bytes]]:
    return [(chunk.seq, chunk.data) for chunk in services.logs.read(run_id, attempt)]


def events(services: Services, run_id: UUID, kind: str) -> list[dict[str, Any]]:
    return [event.detail for event in services.runs.events(run_id) if event.kind == kind]


# -- output


def test_output_is_stored_under_its_numbers_byte_for_byte_with_stream_and_time(services: Services) -> None:
    work, token = remote_with_token(services)
    data = bytes(range(256))
    chunk = {"stream": "stderr", "data": b64encode(data).decode(), "at": 1_790_000_000_123}
    reply = append(services, work.run_id, token, 1, [*lines(b"one\n"), chunk])
    assert reply == {"next_seq": 3, "stop": False}
    first, second = services.logs.read(work.run_id, 1)
    assert (first.seq, first.stream, first.data) == (1, "stdout", b"one\n")
    assert (second.seq, second.stream, second.data, second.at) == (2, "stderr", data, 1_790_000_000_123)
    assert first.at > 1_790_000_000_123


def test_a_gap_is_answered_with_the_number_that_is_wanted_and_stores_nothing(services: Services) -> None:
    work, token = remote_with_token(services)
    append(services, work.run_id, token, 1, lines(b"a", b"b"))
    before = image(services, work)
    assert append(services, work.run_id, token, 4, lines(b"d"))["next_seq"] == 3
    assert stored(services, work.run_id) == [(1, b"a"), (2, b"b")]
    assert image(services, work) == before
    assert append(services, work.run_id, token, 3, lines(b"c", b"d"))["next_seq"] == 5


def test_what_comes_again_or_overlaps_is_stored_once_and_the_first_counts(services: Services) -> None:
    work, token = remote_with_token(services)
    for first, sent in ((1, lines(b"a", b"b")), (1, lines(b"a", b"b")), (2, lines(b"B", b"c")), (1, lines(b"A"))):
        append(services, work.run_id, token, first, sent)
    assert stored(services, work.run_id) == [(1, b"a"), (2, b"b"), (3, b"c")]


def test_without_chunks_it_only_says_where_the_log_goes_on(services: Services) -> None:
    work, token = remote_with_token(services)
    append(services, work.run_id, token, 1, lines(b"a", b"b"))
    before = image(services, work)
    assert append(services, work.run_id, token, 1, []) == {"next_seq": 3, "stop": False}
    assert image(services, work) == before


def test_a_run_that_no_worker_has_claimed_yet_takes_nothing_and_is_not_to_be_stopped(services: Services) -> None:
    run_id, token = waiting_with_token(services)
    assert append(services, run_id, token, 1, lines(b"early")) == {"next_seq": 1, "stop": False}
    assert heartbeat(services, run_id, token) == {"stop": False}
    assert record_result(services, run_id, token, {"exit_status": 0}, 0) == {"taken": False}
    assert status_of(services, run_id) == Status.QUEUED
    claim(services, run_id, "worker@test")
    assert append(services, run_id, token, 1, lines(b"early"))["next_seq"] == 2


def test_output_goes_on_where_it_was_after_another_worker_has_taken_the_place_over(services: Services) -> None:
    work, token = remote_with_token(services)
    append(services, work.run_id, token, 1, lines(b"a", b"b"))
    services.adoptions.hand_over([work.fence])
    adoption = services.adoptions.adopt(work.run_id, 1, work.epoch, "other@test", uuid4())
    assert adoption is not None
    assert adoption.resumed.after_seq == 2
    assert append(services, work.run_id, token, 3, lines(b"c")) == {"next_seq": 4, "stop": False}
    assert stored(services, work.run_id) == [(1, b"a"), (2, b"b"), (3, b"c")]
    record_result(services, work.run_id, token, {"exit_status": 0}, 3)
    assert status_of(services, work.run_id) == Status.SUCCEEDED


def test_a_takeover_between_looking_and_storing_has_the_same_chunks_asked_for_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, token = remote_with_token(services)
    real = reporting.ingest

    def after_a_takeover(wired: Services, blocks: Any) -> Any:
        if not kinds(services, work.run_id).count("attached"):
            services.adoptions.hand_over([work.fence])
            services.adoptions.adopt(work.run_id, 1, work.epoch, "other@test", uuid4())
        return real(wired, blocks)

    monkeypatch.setattr(reporting, "ingest", after_a_takeover)
    assert append(services, work.run_id, token, 1, lines(b"a"))["next_seq"] == 1
    assert append(services, work.run_id, token, 1, lines(b"a"))["next_seq"] == 2
    assert stored(services, work.run_id) == [(1, b"a")]


# -- stop


def test_after_a_cancel_each_reply_says_stop_and_output_is_kept(services: Services) -> None:
    work, token = remote_with_token(services)
    cancel_run(work.run_id)
    assert append(services, work.run_id, token, 1, lines(b"late")) == {"next_seq": 2, "stop": True}
    assert heartbeat(services, work.run_id, token) == {"stop": True}
    assert stored(services, work.run_id) == [(1, b"late")]
    assert "late_output" not in kinds(services, work.run_id)


def test_a_run_that_was_cancelled_before_a_worker_claimed_it_is_to_be_stopped(services: Services) -> None:
    run_id, token = waiting_with_token(services)
    cancel_run(run_id)
    assert append(services, run_id, token, 1, []) == {"next_seq": 1, "stop": True}
    assert append(services, run_id, token, 1, lines(b"late")) == {"next_seq": 2, "stop": True}
    assert stored(services, run_id) == []
    assert heartbeat(services, run_id, token)["stop"]
    assert record_result(services, run_id, token, {"exit_status": 0}, 0)["taken"]
    assert status_of(services, run_id) == Status.CANCELLED


def test_after_a_reap_the_producer_is_told_to_stop_and_its_output_is_kept_as_late(services: Services) -> None:
    work, token = remote_with_token(services)
    reap(services, work.run_id)
    assert status_of(services, work.run_id) == Status.FAILED
    assert append(services, work.run_id, token, 1, lines(b"late"))["stop"]
    assert stored(services, work.run_id) == [(1, b"late")]
    assert kinds(services, work.run_id).count("late_output") == 1


def test_a_heartbeat_of_a_run_that_has_ended_changes_nothing(services: Services) -> None:
    work, token = remote_with_token(services)
    record_result(services, work.run_id, token, {"exit_status": 0}, 0)
    before = image(services, work)
    assert heartbeat(services, work.run_id, token)["stop"]
    assert image(services, work) == before


# -- the result


@pytest.mark.parametrize(
    ("said", "status", "detail"),
    [
        ({"exit_status": 0}, "succeeded", {"exit_status": 0}),
        ({"exit_status": 3}, "failed", {"exit_status": 3}),
        ({"signal": 9}, "failed", {"signal": 9}),
        ({"error": "No \0 disk."}, "failed", {"error_message": "No ␀ disk."}),
    ],
)
def test_a_result_ends_the_run(services: Services, said: Any, status: str, detail: dict[str, Any]) -> None:
    work, token = remote_with_token(services)
    append(services, work.run_id, token, 1, lines(b"a"))
    assert record_result(services, work.run_id, token, said, 1) == {"taken": True}
    run = services.runs.get(work.run_id)
    assert run.status == status
    assert detail.items() <= (run.attempts[0].outcome or {}).items()
    assert (run.attempts[0].last_seq, run.attempts[0].termination) == (1, None)


def test_a_second_result_changes_nothing(services: Services) -> None:
    work, token = remote_with_token(services)
    record_result(services, work.run_id, token, {"exit_status": 0}, 0)
    before = image(services, work)
    for said in ({"exit_status": 0}, {"exit_status": 3}, {"signal": 9}):
        assert record_result(services, work.run_id, token, said, 5) == {"taken": True}
    assert image(services, work) == before


def test_a_result_after_a_reap_is_kept_as_a_late_one_once(services: Services) -> None:
    work, token = remote_with_token(services)
    reap(services, work.run_id)
    for _ in range(2):
        assert record_result(services, work.run_id, token, {"exit_status": 0}, 4)["taken"]
    run = services.runs.get(work.run_id)
    assert (run.status, run.error_code) == ("failed", "adapter_liveness_lost")
    assert run.attempts[0].late_result_at is not None
    assert events(services, work.run_id, "late_result") == [{"exit_status": 0}]


def test_that_a_producer_was_ended_when_told_to_stop_is_no_sign_of_a_false_reap(services: Services) -> None:
    work, token = remote_with_token(services)
    reap(services, work.run_id)
    record_result(services, work.run_id, token, {"signal": 15}, 0)
    assert services.runs.get(work.run_id).attempts[0].late_result_at is None


def test_a_result_that_meets_a_takeover_is_recorded_all_the_same(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, token = remote_with_token(services)
    real, asked = reporting.finish, list[int]()

    def after_a_takeover(wired: Services, ends: Any) -> Any:
        asked.append(ends[0].fence.epoch)
        if len(asked) == 1:
            services.adoptions.hand_over([work.fence])
            services.adoptions.adopt(work.run_id, 1, work.epoch, "other@test", uuid4())
        return real(wired, ends)

    monkeypatch.setattr(reporting, "finish", after_a_takeover)
    assert record_result(services, work.run_id, token, {"exit_status": 0}, 0)["taken"]
    assert asked == [work.epoch, work.epoch + 1]
    assert status_of(services, work.run_id) == Status.SUCCEEDED


# -- the worker that holds the place


@contextmanager
def held(services: Services, work: Work) -> Iterator[tuple[Supervisor, RunContext, list[str]]]:
    """The adapter follows the run on a thread, as a worker has it, and has said so; what came of it."""
    supervisor, came_of_it = Supervisor(services, direct_shipper(services)), list[str]()

    def follow() -> None:
        with supervisor.follow(work) as context:
            contexts.append(context)
            came_of_it.append(
                follow_to_the_end(services, context, lambda adapter, work: start(services, adapter, work, context))
            )

    contexts: list[RunContext] = []
    thread = threading.Thread(target=follow)
    thread.start()
    try:
        eventually(lambda: "dispatched" in kinds(services, work.run_id) and contexts[0].can_be_left)
        yield supervisor, contexts[0], came_of_it
    finally:
        contexts[0].stop()
        thread.join()


def claimed(services: Services) -> tuple[Work, str]:
    work = claim(services, new_run(services, adapter="remote", config={}).id, "worker@test")
    assert work is not None
    return work, services.tokens.issue(work.run_id)


def test_the_worker_that_holds_the_place_gives_no_proof_of_life_and_leaves_when_the_result_comes(
    services: Services, redis: Redis
) -> None:
    work, token = claimed(services)
    with held(services, work) as (supervisor, context, came_of_it):
        assert context.proof() is None
        assert services.runs.get_attempt(work.run_id, 1).handle == {}
        record_result(services, work.run_id, token, {"exit_status": 0}, 0)
        supervisor.supervise()
        eventually(lambda: came_of_it == ["superseded"])
    assert status_of(services, work.run_id) == Status.SUCCEEDED


def test_a_worker_that_leaves_leaves_the_place_to_another(services: Services) -> None:
    work, token = claimed(services)
    with held(services, work) as (supervisor, _, came_of_it):
        supervisor.drain()
        eventually(lambda: came_of_it == ["released"])
    assert [run_id for run_id, *_ in services.adoptions.to_adopt(a_node("any-host"), ["remote"], 10)] == [work.run_id]
    assert not heartbeat(services, work.run_id, token)["stop"]


def test_another_worker_holds_the_place_until_it_is_to_leave(services: Services) -> None:
    work = remote(services)
    context = RunContext(services, direct_shipper(services), work)
    adapter = RemoteAdapter(services.settings.data_dir, "host")
    ended: list[Outcome | str] = []

    def attach() -> None:
        with suppress(Released):
            ended.append(go_on(services, adapter, work, {}, context))
            return
        ended.append("released")

    thread = threading.Thread(target=attach)
    thread.start()
    assert ended == []
    context.release()
    thread.join(timeout=20)
    assert ended == ["released"]


def test_its_termination_is_settled_though_nobody_can_be_ended_from_here(services: Services) -> None:
    work = remote(services)
    cancel_run(work.run_id)
    assert services.terminations.owed(a_node("any-host")) == [(work.run_id, 1)]
    Supervisor(services, direct_shipper(services)).bury()
    assert services.runs.get_attempt(work.run_id, 1).termination == "done"


def test_the_config_of_a_remote_run_has_a_note_at_the_most() -> None:
    adapter = find_adapter("remote")
    assert validate_config(adapter, {}) == {}
    assert validate_config(adapter, {"note": "the laboratory's machine"}) == {"note": "the laboratory's machine"}
    with pytest.raises(InvalidRequest, match=r"config\.command is not a field; known are note"):
        validate_config(adapter, {"command": ["true"]})


def test_silence_of_the_producer_is_what_a_remote_run_is_reaped_for(services: Services) -> None:
    work, token = remote_with_token(services)
    heartbeat(services, work.run_id, token)
    assert reap(services, work.run_id)["judged"] == 1
    assert services.runs.get(work.run_id).error_code == "adapter_liveness_lost"
    assert services.timing.window > timedelta(seconds=20)


# -- what comes from outside


LARGE = {"stream": "stdout", "data": b64encode(b"x" * MAX_CHUNK_BYTES).decode()}


@pytest.mark.parametrize(
    ("first_seq", "chunks", "sentence"),
    [
        (0, [], "first_seq is 0; give a whole number from 1 to"),
        (True, [], "first_seq is True; give a whole number"),
        ("1", [], "first_seq is of type str; give a whole number"),
        pytest.param(10**100, [], "first_seq is too large; give a whole number", id="a huge number"),
        (1, None, "chunks is None; give a list"),
        (1, "text", "chunks is of type str; give a list"),
        (1, [7], r"chunks\[0\] must have stream and data"),
        (1, [{"stream": "stdout"}], r"chunks\[0\] must have stream and data"),
        (1, [LARGE | {"cursor": "1"}], r"chunks\[0\] must have stream and data, may have at, and nothing else"),
        (1, [LARGE | {"stream": "Std Out"}], r"chunks\[0\].stream is no name of a stream"),
        (1, [LARGE | {"stream": 1}], r"chunks\[0\].stream is no name of a stream"),
        (1, [LARGE | {"data": "not base64!"}], r"chunks\[0\].data is no Base64"),
        (1, [LARGE | {"data": "é"}], r"chunks\[0\].data is no Base64"),
        (1, [LARGE | {"data": 7}], r"chunks\[0\].data is 7; give the bytes as Base64"),
        (1, [LARGE | {"data": ""}], r"chunks\[0\].data holds 0 bytes; give 1 to 65536"),
        (1, [LARGE | {"data": b64encode(b"x" * (MAX_CHUNK_BYTES + 1)).decode()}], "holds 65537 bytes; give 1 to 65536"),
        (1, [LARGE | {"at": -1}], r"chunks\[0\].at is -1; give a whole number from 0"),
        (1, [LARGE | {"at": 2**63}], r"chunks\[0\].at is 9223372036854775808; give a whole number from 0"),
        (1, [LARGE] * (MAX_REPORT_BYTES // MAX_CHUNK_BYTES + 1), "send at most 1048576 at once"),
        (1, lines(b"x") * (MAX_CHUNKS + 1), "chunks: 1001 of them; send at most 1000 at once"),
    ],
)
def test_output_that_cannot_be_stored_is_refused_with_a_sentence(
    services: Services, first_seq: Any, chunks: Any, sentence: str
) -> None:
    work, token = remote_with_token(services)
    before = image(services, work)
    with pytest.raises(InvalidRequest, match=sentence):
        append(services, work.run_id, token, first_seq, chunks)
    assert image(services, work) == before
    assert stored(services, work.run_id) == []


@pytest.mark.parametrize(
    ("outcome", "last_seq", "sentence"),
    [
        (None, 0, "outcome must have exactly one of"),
        ({}, 0, "outcome must have exactly one of"),
        ({"exit_status": 0, "signal": 9}, 0, "outcome must have exactly one of"),
        ({"exit_status": 256}, 0, "outcome.exit_status is 256; give a whole number from 0 to 255"),
        ({"exit_status": "0"}, 0, "outcome.exit_status is of type str"),
        ({"signal": 0}, 0, "outcome.signal is 0; give a whole number from 1 to 64"),
        ({"error": ""}, 0, "a sentence of 1 to 2000 characters"),
        ({"status": "succeeded"}, 0, "outcome must have an exit_status, a signal, or an error"),
        ({"exit_status": 0}, -1, "last_seq is -1; give a whole number from 0"),
        ({"exit_status": 0}, None, "last_seq is None; give a whole number from 0"),
    ],
)
def test_a_result_that_makes_no_sense_is_refused_with_a_sentence(
    services: Services, outcome: Any, last_seq: Any, sentence: str
) -> None:
    work, token = remote_with_token(services)
    before = image(services, work)
    with pytest.raises(InvalidRequest, match=sentence):
        record_result(services, work.run_id, token, outcome, last_seq)
    assert image(services, work) == before


def test_a_token_is_issued_for_runs_that_there_are(services: Services) -> None:
    with pytest.raises(RunNotFound, match="There is no run"):
        services.tokens.issue(uuid4())


# -- the command line


def test_a_remote_run_and_its_token_are_asked_for_on_the_command_line(services: Services) -> None:
    started = CliRunner().invoke(app, ["run", "--adapter", "remote", "--label", "team=lab"])
    assert started.exit_code == 0, started.output
    run = services.runs.get(UUID(started.stdout.strip()))
    assert (run.adapter, run.out_of_process_liveness, run.spec.config) == ("remote", True, {})
    first, second = (CliRunner().invoke(app, ["token", "run", str(run.id)]).stdout.strip() for _ in range(2))
    assert first != second
    assert (services.tokens.check(run.id, first), services.tokens.check(run.id, second)) == (False, True)


def test_a_command_is_nothing_that_a_remote_run_could_be_given(services: Services) -> None:
    refused = CliRunner().invoke(app, ["run", "--adapter", "remote", "--", "true"])
    assert isinstance(refused.exception, InvalidRequest)
    assert "config.command is not a field; known are note" in str(refused.exception)
    assert services.records.newest() == []


def test_a_command_is_asked_for_where_one_is_needed(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "adapter_classes", lambda: {"process": ProcessAdapter})
    refused = CliRunner().invoke(app, ["run"])
    assert isinstance(refused.exception, InvalidRequest)
    assert "config.command: field required" in str(refused.exception)
