"""What every adapter has to pass, whatever it runs: a class to be inherited by a test of yours.

    class TestJobServer(AdapterContract):
        @pytest.fixture
        def adapter(self, tmp_path): return JobServerAdapter(tmp_path, "here")

        @pytest.fixture
        def printing(self): return Printing({"command": ["echo", "hello"]}, b"hello\\n")

        @pytest.fixture
        def failing(self): return {"command": ["false"]}

        @pytest.fixture
        def lasting(self): return {"command": ["sh", "-c", "echo up; sleep 600"]}

It tests an adapter against what it talks to, without a worker and without a database. What it cannot know is how your
platform fails; `docs/write_an_adapter.md` says what must hold then.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from reprieve.adapters.kinds import validate_config
from reprieve.adapters.protocol import AnyAdapter, Attaching, Probing, Work
from reprieve.models.chunks import MAX_CHUNK_BYTES
from reprieve.models.errors import InvalidRequest, Released, Superseded
from reprieve.models.status import Probe
from reprieve.testing.contexts import Following, RecordingContext, carry_out, following
from reprieve.testing.waiting import eventually

Config = dict[str, Any]

#: Seconds in which what is expected of an adapter happens.
PATIENCE = 30.0


class Printing(NamedTuple):
    """Work that ends well, and all that it prints, its streams one after the other in the order of their names."""

    config: Config
    output: bytes


class AdapterContract:
    """Give the four fixtures that raise `NotImplementedError`, in a class whose name begins with `Test`."""

    @pytest.fixture
    def adapter(self) -> AnyAdapter:
        raise NotImplementedError

    @pytest.fixture
    def printing(self) -> Printing:
        raise NotImplementedError

    @pytest.fixture
    def failing(self) -> Config:
        """Of work that ends by itself, and not well."""
        raise NotImplementedError

    @pytest.fixture
    def lasting(self) -> Config:
        """Of work that prints something at once, and goes on for longer than a test waits."""
        raise NotImplementedError

    @pytest.fixture
    def attempt(self, adapter: AnyAdapter, lasting: Config) -> Work:
        return attempt_of(adapter, lasting)

    @pytest.fixture
    def other(self, adapter: AnyAdapter, lasting: Config) -> Work:
        return attempt_of(adapter, lasting)

    # -- what is asked for

    def test_a_config_is_kept_as_json_that_is_valid_again(self, adapter: AnyAdapter, printing: Printing) -> None:
        stored = validate_config(type(adapter), printing.config)
        assert validate_config(type(adapter), json.loads(json.dumps(stored))) == stored

    def test_a_field_that_is_not_known_is_refused_by_its_name(self, adapter: AnyAdapter, printing: Printing) -> None:
        with pytest.raises(InvalidRequest, match="no_such_field"):
            validate_config(type(adapter), {**printing.config, "no_such_field": 1})

    def test_what_it_can_do_is_what_it_declares(self, adapter: AnyAdapter) -> None:
        assert isinstance(adapter.type, str)
        assert adapter.type.strip()
        # Work that outlives its worker is followed by another one.
        assert isinstance(adapter, Attaching) == adapter.has_out_of_process_liveness

    # -- output and ends

    def test_work_that_ends_well_succeeds_and_all_it_printed_is_there(
        self, adapter: AnyAdapter, printing: Printing
    ) -> None:
        with following(adapter, attempt_of(adapter, printing.config)) as run:
            outcome = run.outcome()
        assert (outcome.error_code, outcome.error_message) == (None, None)
        assert printed(run.context) == printing.output
        assert all(0 < len(data) <= MAX_CHUNK_BYTES for _, data, _ in run.context.chunks)

    def test_work_that_ends_badly_fails_with_a_sentence(self, adapter: AnyAdapter, failing: Config) -> None:
        with following(adapter, attempt_of(adapter, failing)) as run:
            outcome = run.outcome()
        assert outcome.error_code is not None
        assert outcome.error_message
        json.dumps(outcome.detail, allow_nan=False)

    def test_output_arrives_while_the_work_goes_on(self, adapter: AnyAdapter, attempt: Work) -> None:
        with under_way(adapter, attempt) as run:
            assert not run.result.done()

    # -- no work without a record

    def test_work_is_recorded_as_what_it_is_before_it_prints(self, adapter: AnyAdapter, attempt: Work) -> None:
        with under_way(adapter, attempt) as run:
            recorded = run.context.dispatched if adapter.has_out_of_process_liveness else run.context.spawned
            assert recorded
            assert json.loads(json.dumps(run.context.handle)) == run.context.handle

    def test_work_that_could_not_be_recorded_is_not_started(self, adapter: AnyAdapter, attempt: Work) -> None:
        context = RecordingContext(attempt.run_id)
        context.refusal = Superseded("another worker has it")
        with pytest.raises(Superseded):
            carry_out(adapter, attempt, context)
        assert context.chunks == []
        if context.dispatched and isinstance(adapter, Probing):
            assert adapter.probe([context.handle]) != [Probe.ALIVE]

    # -- stop

    def test_who_is_told_to_stop_returns_and_the_work_is_ended_when_that_is_asked_for(
        self, adapter: AnyAdapter, attempt: Work
    ) -> None:
        with under_way(adapter, attempt) as run:
            run.context.stop()
            run.outcome()
            adapter.terminate(run.context.handle)
            if isinstance(adapter, Probing):
                eventually(lambda: adapter.probe([run.context.handle]) != [Probe.ALIVE], timeout=PATIENCE)

    def test_to_terminate_twice_is_no_error_and_another_attempt_is_left_alone(
        self, adapter: AnyAdapter, attempt: Work, other: Work
    ) -> None:
        with under_way(adapter, attempt) as run, under_way(adapter, other) as left:
            adapter.terminate(run.context.handle)
            adapter.terminate(run.context.handle)
            assert not left.result.done()
            if isinstance(adapter, Probing):
                assert adapter.probe([left.context.handle]) == [Probe.ALIVE]

    # -- work that outlives its worker

    def test_work_is_followed_by_another_from_where_the_first_has_left_it(
        self, adapter: AnyAdapter, attempt: Work
    ) -> None:
        if not isinstance(adapter, Attaching):
            pytest.skip("its work ends with its worker")
        with under_way(adapter, attempt) as first:
            first.context.release()
            with suppress(Released):
                first.outcome()
            known = printed(first.context)
            cursor = first.context.chunks[-1][2]
            with following(adapter, attempt, handle=first.context.handle, cursor=cursor) as second:
                eventually(lambda: second.context.heartbeats, timeout=PATIENCE)
                assert known not in printed(second.context)
                second.context.stop()
                second.outcome()

    def test_a_platform_says_of_each_work_whether_it_lives(
        self, adapter: AnyAdapter, attempt: Work, other: Work
    ) -> None:
        if not isinstance(adapter, Probing):
            pytest.skip("its platform cannot be asked")
        with under_way(adapter, attempt) as run, under_way(adapter, other) as ended:
            adapter.terminate(ended.context.handle)
            eventually(lambda: adapter.probe([ended.context.handle]) != [Probe.ALIVE], timeout=PATIENCE)
            handles = [run.context.handle, ended.context.handle, run.context.handle]
            first, second, third = adapter.probe(handles)
            assert (first, third) == (Probe.ALIVE, Probe.ALIVE)
            assert second in (Probe.DEAD, Probe.ENDED)
        assert adapter.probe([]) == []


def attempt_of(adapter: AnyAdapter, config: Config) -> Work:
    return Work(uuid4(), 1, 1, adapter.type, validate_config(type(adapter), config), {})


@contextmanager
def under_way(adapter: AnyAdapter, attempt: Work) -> Iterator[Following]:
    """Follow work that has begun to print while the block lasts; it is terminated at the end."""
    with following(adapter, attempt) as run:
        try:
            eventually(lambda: run.context.chunks or run.result.done(), timeout=PATIENCE)
            assert run.context.chunks, "the work has ended without output"
            yield run
        finally:
            run.context.stop()
            if run.context.dispatched or run.context.spawned:
                adapter.terminate(run.context.handle)


def printed(context: RecordingContext) -> bytes:
    return b"".join(context.output(stream) for stream in sorted({stream for stream, *_ in context.chunks}))
