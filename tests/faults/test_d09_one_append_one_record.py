"""D09: what one call of `on_log` hands over stays together, and the numbers have no gap, however many call at once."""

import time
from collections.abc import Sequence
from functools import partial

import pytest

from reprieve.adapters.shipper import LogShipper
from reprieve.adapters.spool import SpooledLog
from reprieve.models.chunks import MAX_CHUNK_BYTES, Chunk
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.ingest import ingest
from tests.faults.helpers_cdeg import all_at_once
from tests.support.rows import running

pytestmark = pytest.mark.row("D09")

WRITERS = 64
APPENDS = 20


class PoliteShipper(LogShipper):
    """Lets another thread go first after each chunk, so that what can be torn is."""

    def add(self, log: SpooledLog, chunks: Sequence[bytes]) -> None:
        super().add(log, chunks)
        time.sleep(0.0001)


def _written_at_once(services: Services, size: int, appends: int) -> list[Chunk]:
    """What is stored after all writers made their appends, each of `size` bytes of its own kind."""
    work = running(services)
    shipper = PoliteShipper(services.settings.spool_dir, partial(ingest, services), services.logs.stored)
    context = RunContext(services, shipper, work)

    def write(writer: int) -> None:
        for append in range(appends):
            record = b"%02d-%02d " % (writer, append)
            context.on_log("stdout", record * (size // len(record)))

    all_at_once([lambda writer=writer: write(writer) for writer in range(WRITERS)])
    assert shipper.close(60)
    stored = services.logs.read(work.run_id, 1, limit=100_000)
    assert context.last_seq == len(stored)
    return stored


def test_one_append_of_64_writers_is_one_record(services: Services) -> None:
    stored = _written_at_once(services, 6_000, APPENDS)
    assert [piece.seq for piece in stored] == list(range(1, WRITERS * APPENDS + 1))
    heads = [piece.data[:6] for piece in stored]
    assert all(piece.data == head * 1_000 for piece, head in zip(stored, heads, strict=True))
    assert sorted(heads) == [b"%02d-%02d " % (writer, append) for writer in range(WRITERS) for append in range(APPENDS)]


def test_the_pieces_of_an_append_too_large_for_one_record_follow_each_other(services: Services) -> None:
    size = MAX_CHUNK_BYTES + 6_000
    stored = _written_at_once(services, size, 1)
    assert [piece.seq for piece in stored] == list(range(1, 2 * WRITERS + 1))
    whole = [first.data + second.data for first, second in zip(stored[::2], stored[1::2], strict=True)]
    assert all(record == record[:6] * (size // 6) for record in whole)
    assert len({record[:6] for record in whole}) == WRITERS


def test_each_writers_appends_keep_their_order(services: Services) -> None:
    appends = 40
    stored = _written_at_once(services, 60, appends)
    assert [piece.seq for piece in stored] == list(range(1, WRITERS * appends + 1))
    for writer in range(WRITERS):
        own = [piece.data[:6] for piece in stored if piece.data.startswith(b"%02d-" % writer)]
        assert own == sorted(own)
        assert len(own) == appends
