"""What runs used: kept with the end of an attempt, whoever ends it, and in samples over its life."""

import os
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from reprieve import InvalidRequest, cancel_run, enqueue_run
from reprieve.adapters import host
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.protocol import AnyAdapter
from reprieve.adapters.shipper import LogShipper
from reprieve.cli.main import app
from reprieve.models.process import ProcessIdentity
from reprieve.models.records import AttemptRecord, UsedRecord
from reprieve.models.samples import Sample, Series
from reprieve.models.status import Status
from reprieve.models.used import Used
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.logs import Resumed
from reprieve.testing.contexts import following, work
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from reprieve.workers.supervision import measuring as module
from reprieve.workers.supervision.followed import Followed
from reprieve.workers.supervision.measuring import Measuring
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import enqueueing
from tests.support.following import follow_to_the_end
from tests.support.rows import age, claim, in_process, running, watch_for
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

MIB = 1024**2


def outcome(code: int = 0, **used: Any) -> Outcome:
    said = Outcome.of_exit(code)
    return Outcome(said.error_code, said.error_message, said.detail, used=Used(**used))


def attempt_of(services: Services, of: Work) -> AttemptRecord:
    """Its last attempt, the same by both ways in which it is read."""
    record = services.records.get(of.run_id).attempts[-1]
    assert AttemptRecord.of(services.runs.get(of.run_id).attempts[-1]) == record
    return record


def sentences(services: Services, of: Work) -> str:
    return "\n".join(explain(services, of.run_id).sentences)


# -- with the end


def test_what_an_attempt_used_is_kept_with_its_end_and_explained(services: Services) -> None:
    of = in_process(services)
    used = outcome(3, cpu_seconds=12.5, peak_memory_bytes=240 * MIB, memory_limit_bytes=512 * MIB)
    assert finish(services, [End.by_result(of.fence, used, 0)])
    assert attempt_of(services, of).used == UsedRecord(
        cpu_seconds=12.5, peak_memory_bytes=240 * MIB, memory_limit_bytes=512 * MIB
    )
    told = sentences(services, of)
    assert "s, used 12 s of processor time, had 240 MiB in memory at the most (limit 512 MiB)." in told
    assert "Attempt 1 took 0." in told


def test_of_what_nobody_measures_nothing_is_said(services: Services) -> None:
    of = running(services, adapter="remote", config={})
    assert finish(services, [End.by_result(of.fence, Outcome(), 0)])
    assert attempt_of(services, of).used is None
    assert "processor time" not in sentences(services, of)


def test_an_end_that_came_in_two_attempts_is_kept_with_each(services: Services) -> None:
    of = in_process(services, max_attempts=2, retry_on={"exit_status": [3]})
    context = RunContext(services, direct_shipper(services), of)
    assert follow_to_the_end(services, context, lambda *_: outcome(3, cpu_seconds=1.0)) == "exit_status"
    again = claim(services, of.run_id, "worker@nowhere")
    if again is None:  # Its wait is not over.
        services.database.run("UPDATE runs SET not_before = NULL WHERE id = :id", {"id": of.run_id})
        again = claim(services, of.run_id, "worker@nowhere")
    assert again is not None
    assert finish(services, [End.by_result(again.fence, outcome(0, cpu_seconds=2.0), 0)])
    used = [one.used for one in services.records.get(of.run_id).attempts]
    assert [one and one.cpu_seconds for one in used] == [1.0, 2.0]


def test_a_follower_whose_run_was_cancelled_says_what_its_work_had_used_when_that_is_gone(services: Services) -> None:
    of = in_process(services)
    context = RunContext(services, direct_shipper(services), of)

    def cancelled_meanwhile(_: AnyAdapter, __: Work) -> Outcome:
        cancel_run(of.run_id)
        context.stop()
        return outcome(-15, cpu_seconds=7.0, peak_memory_bytes=MIB)

    assert follow_to_the_end(services, context, cancelled_meanwhile) == "superseded"
    assert services.records.get(of.run_id).status is Status.CANCELLED
    used = attempt_of(services, of).used
    assert used is not None
    assert (used.cpu_seconds, used.peak_memory_bytes) == (7.0, MIB)


def test_a_follower_that_was_adopted_says_nothing_of_the_attempt(services: Services) -> None:
    of = running(services)
    services.database.run("UPDATE runs SET epoch = epoch + 1 WHERE id = :id", {"id": of.run_id})
    services.database.run("UPDATE run_attempts SET epoch = epoch + 1 WHERE run_id = :id", {"id": of.run_id})
    services.attempts.note_used(of.fence, Used(1.0))
    services.samples.write({of.fence: series((1.0, 5))})
    assert attempt_of(services, of).used is None
    assert services.samples.of(of.run_id, 1).samples == []


# -- samples


def series(*samples: tuple[float, int]) -> Series:
    one = Series()
    for place, (cpu, memory) in enumerate(samples):
        one.add(Sample(time.monotonic() - 20 * (len(samples) - place), cpu, memory))
    return one


def test_of_an_attempt_that_is_reaped_what_was_seen_is_kept(services: Services) -> None:
    of = in_process(services)
    services.samples.write({of.fence: series((1.0, 80 * MIB), (2.5, 60 * MIB))})
    assert "had used 2.5 s of processor time 20 s ago, and had 60 MiB in memory." in sentences(services, of)
    age(services, of.run_id, 400)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1
    used = attempt_of(services, of).used
    assert used == UsedRecord(cpu_seconds=2.5, peak_memory_bytes=80 * MIB, memory_limit_bytes=None)


def test_samples_are_written_anew_read_back_and_go_with_their_run(services: Services) -> None:
    of, other = in_process(services), in_process(services)
    services.samples.write({of.fence: series((1.0, 5)), other.fence: series((9.0, 9))})
    services.samples.write({of.fence: series((1.0, 5), (2.0, 7))})
    kept = services.samples.of(of.run_id, 1).samples
    assert [(one.cpu_seconds, one.memory_bytes) for one in kept] == [(1.0, 5), (2.0, 7)]
    assert 19 < (kept[1].at - kept[0].at).total_seconds() < 21
    assert abs((services.database.now() - kept[1].at).total_seconds() - 20) < 10
    resumed = services.samples.resume({of.fence, other.fence})
    assert [(one.cpu_seconds, one.memory_bytes) for one in resumed[of.fence]] == [(1.0, 5), (2.0, 7)]
    assert (resumed[of.fence].peak_memory, resumed[other.fence].peak_memory) == (7, 9)
    assert services.samples.of(of.run_id, 2).samples == []
    services.database.run("DELETE FROM runs WHERE id = :id", {"id": of.run_id})
    assert services.samples.of(of.run_id, 1).samples == []


def test_writing_samples_writes_no_run(services: Services) -> None:
    of = in_process(services)
    before = services.database.run("SELECT ctid FROM runs WHERE id = :id", {"id": of.run_id})
    for _ in range(3):
        services.samples.write({of.fence: series((1.0, 5))})
    assert services.database.run("SELECT ctid FROM runs WHERE id = :id", {"id": of.run_id}) == before


@pytest.fixture
def followed(services: Services) -> Followed:
    return Followed(services, LogShipper(services.settings.spool_dir, lambda blocks: None, lambda keys: {}))


@pytest.fixture
def measuring(services: Services, followed: Followed) -> Measuring:
    """One that writes at each turn."""
    one = Measuring(services, followed)
    one._interval = 0
    return one


HOLD_AND_BURN = """
import os, time
held = bytearray(64 * 1024 ** 2)
for place in range(0, len(held), 4096): held[place] = 1
pid = os.fork()
while time.process_time() < 0.3: pass
if pid: print("ready", flush=True); os.waitpid(pid, 0)
else: time.sleep(100)
"""


def test_a_worker_looks_at_all_that_its_commands_have_started(
    services: Services, followed: Followed, measuring: Measuring, tmp_path: Any
) -> None:
    of = in_process(services)
    adapter = ProcessAdapter(tmp_path, "here")
    with (
        following(adapter, work(sys.executable, "-I", "-S", "-c", HOLD_AND_BURN)) as run,
        followed.follow(of) as context,
    ):
        run.wait_for(b"ready\n")
        context.has_spawned(ProcessIdentity.from_handle(run.context.handle))

        def both_have_burned() -> bool:
            measuring.turn()
            return services.samples.of(of.run_id, 1).samples[-1].cpu_seconds > 0.5

        eventually(both_have_burned)
        sample = services.samples.of(of.run_id, 1).samples[-1]
        assert 0.5 < sample.cpu_seconds < 10
        assert 128 * MIB < sample.memory_bytes < 256 * MIB
        assert context.with_what_was_seen(Outcome()).used == Used(sample.cpu_seconds, sample.memory_bytes)
        run.context.stop()


def process_of(context: RunContext) -> None:
    one = host.identify(os.getpid())
    assert one is not None
    context.has_spawned(one)


def test_what_was_over_within_a_minute_has_no_samples_and_what_was_not_has_its_last(
    services: Services, followed: Followed, measuring: Measuring
) -> None:
    brief, long = in_process(services), in_process(services)
    with ExitStack() as stack:
        contexts = [stack.enter_context(followed.follow(of)) for of in (brief, long)]
        measuring._interval = 3600
        process_of(contexts[1])
        measuring.turn()
        process_of(contexts[0])
        for _ in range(module.FEWEST - 1):
            measuring.turn()
    measuring._interval = 0
    measuring.turn()
    kept = [len(services.samples.of(of.run_id, 1).samples) for of in (brief, long)]
    assert kept == [0, module.FEWEST]
    assert not measuring._series
    assert not measuring._changed
    assert not measuring._written


def test_the_longer_an_attempt_runs_the_less_often_its_samples_are_written(
    services: Services, followed: Followed, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, written = in_process(services), list[float]()
    hours = [hour / 180 for hour in range(10 * 180)]
    with followed.follow(of) as context:
        process_of(context)
        monkeypatch.setattr(services.samples, "write", lambda taken: written.append(hour))
        measuring._interval = 60
        for hour in hours:
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda at=hour: 1e6 + 3600 * at))
            measuring.turn()
    gaps = [second - first for first, second in pairwise(written)]
    assert min(gaps) >= 59 / 3600
    assert max(gaps[:10]) < 0.03
    assert all(gap < second / 20 + 0.1 for gap, second in zip(gaps, written[1:], strict=True))
    assert len(written) < 120


def test_what_cannot_be_written_is_written_with_what_comes_next_and_what_has_ended_is_forgotten(
    services: Services, followed: Followed, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, over = in_process(services), in_process(services)

    def fail(_: object) -> None:
        raise OSError("no database")

    with followed.follow(of) as context:
        process_of(context)
        with followed.follow(over) as other, monkeypatch.context() as patched:
            process_of(other)
            patched.setattr(services.samples, "write", fail)
            for _ in range(module.FEWEST):
                with pytest.raises(OSError, match="no database"):
                    measuring.turn()
        with monkeypatch.context() as patched:
            patched.setattr(services.samples, "write", fail)
            with pytest.raises(OSError, match="no database"):
                measuring.turn()
        assert measuring._series.keys() == {of.fence}
        measuring.turn()
        assert len(services.samples.of(of.run_id, 1).samples) == module.FEWEST + 2


def test_a_worker_goes_on_with_the_samples_of_what_it_adopts(
    services: Services, followed: Followed, measuring: Measuring
) -> None:
    of = running(services)
    services.samples.write({of.fence: series((1000.0, 5), (2000.0, 7))})
    with followed.follow(of, Resumed(0, None)) as context:
        process_of(context)
        measuring.turn()
    kept = services.samples.of(of.run_id, 1).samples
    assert [one.cpu_seconds for one in kept] == [1000.0, 2000.0, 2000.0]


# -- a limit that is asked for


def test_a_limit_of_memory_goes_with_the_run_to_its_adapter(services: Services) -> None:
    of = in_process(services, max_memory=2**30)
    assert (of.max_memory_bytes, services.records.get(of.run_id).max_memory_bytes) == (2**30, 2**30)
    assert in_process(services).max_memory_bytes is None


def test_a_limit_that_the_adapter_does_not_keep_is_refused_where_it_is_asked_for(services: Services) -> None:
    with enqueueing(services):
        with pytest.raises(InvalidRequest, match=r"^max_memory: the adapter 'remote' does not limit"):
            enqueue_run("remote", {}, max_memory=2**30)
        with pytest.raises(InvalidRequest, match=r"give its config\.resources\.limits\.memory instead"):
            enqueue_run("kubernetes", {"image": "job"}, max_memory=2**30)
        assert enqueue_run("detached", {"command": ["true"]}, max_memory=2**30).max_memory_bytes == 2**30


def test_a_limit_is_given_on_the_command_line_as_people_write_it(services: Services) -> None:
    with enqueueing(services):
        asked = CliRunner().invoke(app, ["run", "--max-memory", "512M", "--", "true"])
        assert asked.exit_code == 0, asked.output
        run = services.records.get(services.records.resolve(asked.output.strip()))
        assert run.max_memory_bytes == 512 * MIB
        refused = CliRunner().invoke(app, ["run", "--max-memory", "much", "--", "true"])
        assert refused.exit_code != 0
        assert "no amount of memory" in f"{refused.output} {refused.exception}"


def test_the_key_of_a_run_with_a_limit_gives_that_run(services: Services) -> None:
    with enqueueing(services):
        key = str(uuid4())
        first, again = (
            enqueue_run("process", {"command": ["true"]}, max_memory=2**30, idempotency_key=key) for _ in range(2)
        )
    assert first == again
