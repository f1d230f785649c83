"""D01: the bytes that a run prints are the bytes that are stored and shown, wherever a chunk was cut."""

import sys
from collections import defaultdict
from pathlib import Path
from uuid import UUID

import pytest

from reprieve import enqueue_run
from reprieve.models.chunks import MAX_CHUNK_BYTES, Chunk
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from tests.faults.helpers_cdeg import no_process_left
from tests.support.rows import chunk, ingest, running, status_of
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("D01")

EMOJI = "\N{FOX FACE}".encode()
EVERY_BYTE = bytes(range(256))

#: Prints half an emoji, the rest and every byte value when it is let go, and every byte value backwards as an error.
WORK = f"""
import os, time
os.write(1, {EMOJI[:2]!r})
for _ in range(600):
    if os.path.exists("go"):
        break
    time.sleep(0.1)
os.write(1, {EMOJI[2:] + EVERY_BYTE!r})
os.write(2, {EVERY_BYTE[::-1]!r})
"""


def _streams(chunks: list[Chunk]) -> dict[str, bytes]:
    streams: dict[str, bytes] = defaultdict(bytes)
    for stored in chunks:
        streams[stored.stream] += stored.data
    return dict(streams)


def _is_whole(services: Services, run_id: UUID) -> bool:
    return services.logs.last_seq(run_id, 1) == services.runs.get_attempt(run_id, 1).last_seq


def test_a_real_run_of_either_adapter_gives_back_its_bytes(services: Services, start_worker, tmp_path: Path) -> None:
    start_worker()
    config = {"command": [sys.executable, "-c", WORK], "cwd": str(tmp_path)}
    runs = [enqueue_run(adapter, config).id for adapter in ("process", "detached")]
    with no_process_left(*runs):
        for run_id in runs:
            first = eventually(lambda run_id=run_id: services.logs.read(run_id, 1), what="half an emoji")
            assert [stored.data for stored in first] == [EMOJI[:2]]
        (tmp_path / "go").touch()
        for run_id in runs:
            eventually(lambda run_id=run_id: status_of(services, run_id) == "succeeded")
            eventually(lambda run_id=run_id: _is_whole(services, run_id), what="the last chunk")
    for run_id in runs:
        streams = _streams(services.logs.read(run_id, 1))
        assert streams == {"stdout": EMOJI + EVERY_BYTE, "stderr": EVERY_BYTE[::-1]}


@pytest.mark.parametrize("lead", range(4))
def test_output_that_is_split_inside_a_character_is_put_together_again(services: Services, lead: int) -> None:
    text = "a" * (MAX_CHUNK_BYTES - lead) + "\N{FOX FACE}" * 3
    work = running(services)
    shipper = direct_shipper(services)
    RunContext(services, shipper, work).on_log("stdout", text)
    assert shipper.close(30)
    stored = services.logs.read(work.run_id, 1)
    assert [len(piece.data) for piece in stored] == [MAX_CHUNK_BYTES, 12 - lead]
    assert b"".join(piece.data for piece in stored).decode() == text


def test_live_events_carry_every_byte_value_as_it_is(services: Services) -> None:
    work = running(services)
    place = services.live.position(work.run_id)
    ingest(services, [chunk(work, 1, EMOJI[:2]), chunk(work, 2, EMOJI[2:] + EVERY_BYTE)])
    events, _ = services.live.wait(work.run_id, place)
    told = [one.data for event in events if event.block for one in event.block.chunks()]
    assert b"".join(told) == EMOJI + EVERY_BYTE
