"""`reprieve logs --raw`: what a child wrote comes back byte for byte, wherever its log is; what is missing is told."""

import random
import subprocess
import sys
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import text

from reprieve import enqueue_run
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.faults.helpers_cdeg import reap
from tests.support.forking import REPRIEVE
from tests.support.processes import Process, run_command
from tests.support.rows import chunk, claim, in_process, ingest, running, settle
from tests.support.waiting import eventually

PIECES = 300

#: Random bytes to both streams, in pieces of any size: no line, no character and no chunk ends where a piece does.
CHILD = f"""
import os, random
for number in range({PIECES}):
    noise = random.Random(number)
    for stream, most in ((1, 20_000), (2, 3_000)):
        data = noise.randbytes(noise.randint(1, most))
        while data:
            data = data[os.write(stream, data):]
"""


def written() -> dict[str, bytes]:
    """What the child writes to each stream."""
    streams = {"stdout": bytearray(), "stderr": bytearray()}
    for number in range(PIECES):
        noise = random.Random(number)
        for stream, most in (("stdout", 20_000), ("stderr", 3_000)):
            streams[stream] += noise.randbytes(noise.randint(1, most))
    return {stream: bytes(data) for stream, data in streams.items()}


def logs(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    return run_command([REPRIEVE, "logs", *arguments])


def assert_raw_is_what_was_written(run_id: UUID) -> None:
    expected = written()
    assert len(expected["stdout"]) > 2_000_000
    for stream, data in expected.items():
        done = logs("--stream", stream, "--raw", run_id)
        assert (done.returncode, done.stderr) == (0, b"")
        # Not `==` on megabytes: what pytest would show of a difference takes it minutes.
        assert len(done.stdout) == len(data)
        assert done.stdout.startswith(data)


def test_raw_is_byte_for_byte_what_a_child_wrote_before_and_after_closing(
    services: Services, start_worker: Callable[..., Process]
) -> None:
    start_worker("runs,logs,control", name="runs")
    command = [sys.executable, "-I", "-S", "-c", CHILD]
    run_ids = [enqueue_run(adapter, {"command": command}).id for adapter in ("process", "detached")]
    for run_id in run_ids:
        eventually(lambda run_id=run_id: _is_whole(services, run_id), timeout=60)
        assert services.archives.find(run_id, 1) is None
        assert_raw_is_what_was_written(run_id)
    start_worker("archive", name="archive")
    for run_id in run_ids:
        eventually(lambda run_id=run_id: services.runs.get(run_id).attempts[0].log_closed_at is not None)
        assert next(services.logs.hot(run_id, 1), None) is None
        assert_raw_is_what_was_written(run_id)


def _is_whole(services: Services, run_id: UUID) -> bool:
    """The run has ended, and the chunks up to the last one that its end named are stored."""
    run = services.runs.get(run_id)
    last_seq = run.attempts[0].last_seq if run.attempts else None
    return last_seq is not None and services.closings.state(run_id, 1).stored.covers(1, last_seq)


def test_raw_gives_one_attempt_the_last_one_unless_told_otherwise(services: Services) -> None:
    first = in_process(services, max_attempts=2)
    ingest(services, [chunk(first, 1, b"of the first\n")])
    assert reap(services, first.run_id)["reaped"] == 1
    settle(services, first)
    second = claim(services, first.run_id, "worker@nowhere")
    assert second is not None
    ingest(services, [chunk(second, 1, b"of the second\n"), chunk(second, 2, b"its errors\n", stream="stderr")])
    raw = ("--stream", "stdout", "--raw")
    assert logs(*raw, first.run_id).stdout == b"of the second\n"
    assert logs(*raw, "--attempt", 1, first.run_id).stdout == b"of the first\n"
    assert logs("--stream", "stdout", first.run_id).stdout == b"of the first\nof the second\n"
    assert logs("--stream", "stderr", "--raw", first.run_id).stdout == b"its errors\n"


def test_raw_without_a_stream_gets_a_sentence(services: Services) -> None:
    done = logs("--raw", running(services).run_id)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"reprieve: --raw needs --stream")


def test_an_attempt_that_was_never_made_gets_a_sentence(services: Services) -> None:
    done = logs("--attempt", 99, running(services).run_id)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"reprieve: There is no attempt 99 (yet): the run has had 1.")


@pytest.mark.parametrize("arguments", [(), ("--stream", "stdout"), ("--stream", "stdout", "--raw")])
def test_a_log_with_a_gap_is_shown_as_far_as_it_is_there_and_gives_exit_status_1(
    services: Services, arguments: tuple[str, ...]
) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"one\n"), chunk(work, 3, b"three\n")])
    finish(services, [End.by_result(work.fence, Outcome(), 5)])
    with services.database.begin() as connection:  # Until a minute after its end, more may be on its way.
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '2 minutes'"))
    done = logs(*arguments, work.run_id)
    assert (done.returncode, done.stdout) == (1, b"one\nthree\n")
    assert done.stderr.decode().splitlines() == [
        "reprieve: attempt 1: chunks 2 to 2 are missing",
        "reprieve: attempt 1: chunks 4 to 5 are missing",
    ]
