"""What an adapter is given for an attempt: numbered output, a refusal where the mistake is, and its deadline."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.exc import OperationalError

from reprieve.adapters import spool as spool_module
from reprieve.adapters.host import identify
from reprieve.adapters.shipper import LogShipper
from reprieve.adapters.spool import SpooledLog
from reprieve.models.chunks import MAX_CHUNK_BYTES, Chunk
from reprieve.models.errors import InvalidChunk, Released, Superseded
from reprieve.models.process import ProcessIdentity
from reprieve.models.sequences import SeqRanges
from reprieve.models.status import Proof
from reprieve.models.work import Work
from reprieve.stores.logs import Resumed
from reprieve.stores.runs.attempts import Start
from reprieve.workers.context import RunContext
from tests.support.nodes import a_node
from tests.support.waiting import eventually

RUN = UUID(int=1)


class Shipped(list[Chunk]):
    """Stands in for the shipper: numbers what it takes over."""

    def add(self, log: SpooledLog, chunks: Sequence[bytes]) -> None:
        for record in chunks:
            log.last_seq += 1
            at, stream, data, cursor = msgspec.msgpack.decode(record)
            assert abs(at - time.time() * 1000) < 60_000
            self.append(Chunk(RUN, 2, 5, log.last_seq, stream, data, cursor))


class Rows:
    """Stands in for the rows: remembers what is recorded, or refuses."""

    def __init__(self) -> None:
        self.recorded: list[Start] = []
        self.superseded = False
        self.away = 0

    def persist(self, start: Start) -> None:
        if self.away:
            self.away -= 1
            raise OperationalError("UPDATE", {}, Exception("connection refused"))
        if self.superseded:
            raise Superseded("no longer followed")
        self.recorded.append(start)


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def shipped() -> Shipped:
    return Shipped()


@pytest.fixture
def make(rows: Rows, shipped: Shipped) -> Callable[..., RunContext]:
    def build(shipper: Any = shipped, max_runtime_seconds: float | None = None) -> RunContext:
        work = Work(RUN, 2, 5, "any", {}, {}, max_runtime_seconds)
        return RunContext(SimpleNamespace(runs=rows, attempts=rows, host="here", node=a_node("here")), shipper, work)

    return build


@pytest.fixture
def context(make: Callable[..., RunContext]) -> RunContext:
    return make()


# -- output


def test_output_is_numbered_from_one_under_the_attempts_own_token(context: RunContext, shipped: Shipped) -> None:
    context.on_log("stdout", b"a")
    context.on_log("stderr", "ä", "place 2")
    assert shipped == [
        Chunk(RUN, 2, 5, 1, "stdout", b"a"),
        Chunk(RUN, 2, 5, 2, "stderr", b"\xc3\xa4", "place 2"),
    ]
    assert context.last_seq == 2


def test_a_run_that_has_said_nothing_has_the_last_number_0(context: RunContext) -> None:
    context.on_log("stdout", b"")
    assert context.last_seq == 0


def test_large_output_is_handed_over_in_pieces_each_with_its_number(context: RunContext, shipped: Shipped) -> None:
    context.on_log("stdout", b"x" * (2 * MAX_CHUNK_BYTES + 1))
    assert [(one.seq, len(one.data)) for one in shipped] == [(1, MAX_CHUNK_BYTES), (2, MAX_CHUNK_BYTES), (3, 1)]


def test_only_the_last_piece_says_that_the_whole_was_handed_over(context: RunContext, shipped: Shipped) -> None:
    """Whoever reads on from the cursor of the first piece must not miss the second."""
    context.on_log("stdout", b"x" * (MAX_CHUNK_BYTES + 1), str(MAX_CHUNK_BYTES + 1))
    assert shipped[-1].cursor == str(MAX_CHUNK_BYTES + 1)
    assert shipped[0].cursor != shipped[-1].cursor


@pytest.mark.parametrize("arguments", [("bad name", b"x"), ("stdout", None), ("stdout", b"x", "a\0b")])
def test_a_refused_chunk_takes_no_number(context: RunContext, shipped: Shipped, arguments: Any) -> None:
    with pytest.raises(InvalidChunk):
        context.on_log(*arguments)
    context.on_log("stdout", b"x")
    assert [one.seq for one in shipped] == [1]


def test_the_last_number_can_be_read_while_output_waits_for_a_full_spool(
    make: Callable[..., RunContext], tmp_path: Path
) -> None:
    """The supervisor reads it; were it held up, no run of this worker would get its proof of life."""
    store_back = threading.Event()
    shipper = LogShipper(tmp_path, lambda blocks: store_back.wait(), lambda keys: everything(keys, store_back), limit=1)
    context = make(shipper)
    full = spool_module.FULL._value.get()
    printing = threading.Thread(target=lambda: [context.on_log("stdout", b"x" * 60_000) for _ in range(4)], daemon=True)
    printing.start()
    try:
        eventually(lambda: spool_module.FULL._value.get() > full)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: context.last_seq).result(timeout=2) == 2
    finally:
        store_back.set()
        printing.join(10)
        shipper.close(10)
    assert context.last_seq == 4


def everything(keys: Iterable[Any], store_back: threading.Event) -> dict[Any, SeqRanges]:
    return dict.fromkeys(keys, SeqRanges.of([(1, 100)])) if store_back.is_set() else {}


# -- what was started


def test_a_child_is_recorded_with_this_host_and_namespace_before_it_may_begin(context: RunContext, rows: Rows) -> None:
    own = own_identity()
    context.on_spawn(own.pid, own.process_group_id, own.started_at)
    assert rows.recorded == [Start.of_process(context.fence, "here", own, a_node("here").slot)]


def test_work_elsewhere_is_recorded_with_its_handle_and_the_host_it_names(context: RunContext, rows: Rows) -> None:
    context.on_dispatch({"job": "a"}, "there")
    context.on_dispatch({"job": "b"})
    context.on_dispatch({"job": "c"}, "here")
    assert rows.recorded == [
        Start.of_handle(context.fence, "there", {"job": "a"}, None),
        Start.of_handle(context.fence, None, {"job": "b"}, None),
        Start.of_handle(context.fence, "here", {"job": "c"}, a_node("here").slot),
    ]


def test_a_superseded_attempt_learns_it_when_it_records_and_is_not_vouched_for(context: RunContext, rows: Rows) -> None:
    rows.superseded = True
    own = own_identity()
    with pytest.raises(Superseded):
        context.on_spawn(own.pid, own.process_group_id, own.started_at)
    with pytest.raises(Superseded):
        context.on_dispatch({})
    assert context.proof() is None


# -- proof of life


def own_identity() -> ProcessIdentity:
    own = identify(os.getpid())
    assert own is not None
    return own


def test_there_is_no_proof_of_life_before_anything_was_seen_alive(context: RunContext) -> None:
    context.on_log("stdout", b"output is not the worker's to vouch for")
    assert context.proof() is None


def test_a_heartbeat_is_proof_until_it_was_given_and_no_longer(context: RunContext) -> None:
    context.heartbeat()
    context.heartbeat()
    assert [context.proof(), context.proof()] == [Proof.HEARTBEAT, Proof.HEARTBEAT]
    context.proof_given()
    assert context.proof() is None


def test_a_child_is_vouched_for_as_long_as_it_lives(context: RunContext) -> None:
    own = own_identity()
    context.on_spawn(own.pid, own.process_group_id, own.started_at)
    assert [context.proof(), context.proof()] == [Proof.KEEPALIVE, Proof.KEEPALIVE]


def test_a_child_that_is_gone_is_not_vouched_for_whoever_has_its_number(context: RunContext) -> None:
    own = own_identity()
    context.on_spawn(own.pid, own.process_group_id, own.started_at - 60)
    assert context.proof() is None


# -- stop and deadline


def test_a_wait_ends_at_once_when_told_to_stop(context: RunContext) -> None:
    waiting = threading.Thread(target=context.wait, args=(100,))
    waiting.start()
    assert not context.stopping
    context.stop()
    waiting.join(5)
    assert not waiting.is_alive()
    assert context.stopping
    assert context.wait(100)


def test_a_wait_that_nobody_ends_says_that_there_is_no_reason_to_stop(context: RunContext) -> None:
    assert context.wait(0.01) is False


@pytest.mark.parametrize("limit", [None, 100.0])
def test_a_run_without_a_limit_or_within_it_is_not_overdue(
    make: Callable[..., RunContext], limit: float | None
) -> None:
    assert not make(max_runtime_seconds=limit).is_overdue


def test_a_run_beyond_its_limit_is_overdue(make: Callable[..., RunContext]) -> None:
    context = make(max_runtime_seconds=0.05)
    eventually(lambda: context.is_overdue, timeout=5)


# -- left to another worker


def test_whoever_is_to_leave_learns_it_at_its_next_call_whichever_that_is(make: Callable[..., RunContext]) -> None:
    calls: list[Callable[[RunContext], object]] = [
        lambda context: context.on_log("stdout", b"more"),
        lambda context: context.heartbeat(),
        lambda context: context.wait(60),
    ]
    for call in calls:
        context = make()
        context.release()
        with pytest.raises(Released):
            call(context)
        assert context.last_seq == 0
        assert context.proof() is None


def test_a_wait_ends_at_once_when_told_to_leave(context: RunContext) -> None:
    threading.Timer(0.05, context.release).start()
    began = time.monotonic()
    with pytest.raises(Released):
        context.wait(60)
    assert time.monotonic() - began < 30


def test_to_be_told_to_stop_is_not_to_be_told_to_leave(context: RunContext, shipped: Shipped) -> None:
    context.stop()
    context.on_log("stdout", b"a last word")
    assert context.wait(0)
    assert [one.data for one in shipped] == [b"a last word"]


def test_whoever_goes_on_begins_after_the_last_stored_number_and_from_its_cursor(rows: Rows, shipped: Shipped) -> None:
    services = SimpleNamespace(runs=rows, attempts=rows, host="here", node=a_node("here"))
    work = Work(RUN, 2, 5, "any", {}, {})
    context = RunContext(services, shipped, work, Resumed(41, "there"))
    assert (context.cursor, context.last_seq) == ("there", 41)
    context.on_log("stdout", b"more")
    assert [one.seq for one in shipped] == [42]
    assert context.can_be_left


def test_work_can_be_left_once_its_handle_is_recorded(context: RunContext, rows: Rows) -> None:
    assert not context.can_be_left
    rows.superseded = True
    with pytest.raises(Superseded):
        context.on_dispatch({"name": "job"})
    assert not context.can_be_left
    rows.superseded = False
    context.on_dispatch({"name": "job"})
    assert context.can_be_left


@pytest.mark.parametrize("record", ["child", "work elsewhere"])
def test_what_must_be_recorded_waits_for_a_database_that_is_away(context: RunContext, rows: Rows, record: str) -> None:
    rows.away = 2
    if record == "child":
        context.on_spawn(1, 1, 1.0)
    else:
        context.on_dispatch({"name": "job"})
    assert len(rows.recorded) == 1


def test_it_does_not_wait_for_a_run_that_has_ended_meanwhile(context: RunContext, rows: Rows) -> None:
    rows.away = 1_000_000
    threading.Timer(0.2, context.stop).start()
    with pytest.raises(OperationalError):
        context.on_dispatch({"name": "job"})
    assert rows.recorded == []
