"""The spool on disk: what was written is read, whoever reads it, and damage costs what is damaged."""

import errno
import logging
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reprieve.adapters import spool as module
from reprieve.adapters import spool_records
from reprieve.adapters.spool import Spool, SpooledLog, take_over
from reprieve.adapters.spool_records import read_blocks
from reprieve.models.chunks import Block, encode
from tests.support.waiting import eventually

RUN, OTHER = UUID(int=1), UUID(int=2)
#: Asks for the smallest files there can be; a chunk of the largest size fits.
SMALL = 1


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool.create(tmp_path)
    yield made
    made.close()


def record(text: str | bytes) -> bytes:
    return encode((0, "stdout", text if isinstance(text, bytes) else text.encode(), None))


def everything(spool: Spool) -> list[Block]:
    blocks: list[Block] = []
    for number in spool.numbers:
        data, place, end = spool.open(number), 0, spool.end(number)
        while place < end:
            found, place = read_blocks(data, place, end, max_bytes=10_000)
            blocks += found
    return blocks


def texts(blocks: list[Block], run: UUID = RUN) -> list[str]:
    chunks = {one.seq: one.data.decode() for block in blocks if block.run_id == run for one in block.chunks()}
    return [chunks[seq] for seq in sorted(chunks)]


def damaged() -> float:
    return float(spool_records.DAMAGED._value.get())


def test_what_was_appended_is_read_in_blocks_that_follow_each_other(spool: Spool) -> None:
    log, other = SpooledLog(RUN, 1, 7), SpooledLog(OTHER, 2, 9)
    for number in range(3):
        spool.append(log, [record(f"a{number}"), record(f"b{number}")])
        spool.append(other, [record(f"c{number}")])
    blocks = everything(spool)
    places = [(one.run_id, one.attempt, one.epoch, one.first_seq, one.last_seq) for one in blocks]
    assert sorted(places) == [(RUN, 1, 7, 1, 6), (OTHER, 2, 9, 1, 3)]
    assert texts(blocks) == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert (log.last_seq, other.last_seq, spool.appended) == (6, 3, 9)


def test_threads_that_append_at_once_get_every_number_once_and_their_chunks_together(spool: Spool) -> None:
    log = SpooledLog(RUN, 1, 1)
    threads = [
        threading.Thread(target=lambda: [spool.append(log, [record("x"), record("y")]) for _ in range(200)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts(everything(spool)) == ["x", "y"] * 1600


def test_a_block_does_not_grow_beyond_its_size(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_records, "BLOCK_BYTES", 100)
    spool.append(SpooledLog(RUN, 1, 1), [record("x" * 40) for _ in range(10)])
    blocks = everything(spool)
    assert len(blocks) > 2
    assert texts(blocks) == ["x" * 40] * 10


# -- files, and being full


def test_files_are_filled_one_after_the_other_and_given_back_one_by_one(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, file_bytes=SMALL)
    log = SpooledLog(RUN, 1, 1)
    for number in range(4):
        spool.append(log, [record(str(number) * 50_000)])
    assert spool.numbers == [1, 2, 3, 4]
    assert [spool.is_filled(number) for number in spool.numbers] == [True, True, True, False]
    assert [text[0] for text in texts(everything(spool))] == ["0", "1", "2", "3"]
    spool.give_back(1)
    assert [text[0] for text in texts(everything(spool))] == ["1", "2", "3"]
    spool.close()
    assert len(list(tmp_path.rglob("*.spool"))) == 3


def test_where_the_system_cannot_allocate_files_they_are_written_so_that_they_have_no_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(module, "BLOCK_BYTES", 3000)
    with (tmp_path / "file").open("w+b") as file:
        module._allocate(file.fileno(), 8192)
    found = (tmp_path / "file").stat()
    assert (found.st_size, found.st_blocks * 512 >= 8192) == (8192, True)


def test_where_the_disk_is_full_that_is_said_as_it_is_by_the_call_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: len(data) - 1)
    with (tmp_path / "file").open("w+b") as file, pytest.raises(OSError, match="No space left") as refused:
        module._allocate(file.fileno(), 8192)
    assert refused.value.errno == errno.ENOSPC


def test_a_full_spool_blocks_until_a_file_is_given_back_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool.create(tmp_path, limit=SMALL, file_bytes=SMALL)
    log = SpooledLog(RUN, 1, 1)
    full = module.FULL._value.get()
    with caplog.at_level(logging.WARNING):
        writing = threading.Thread(target=lambda: [spool.append(log, [record("x" * 50_000)]) for _ in range(3)])
        writing.start()
        eventually(lambda: module.FULL._value.get() == full + 1)
        assert (list(spool._numbers), log.last_seq) == ([1, 2], 2)
        spool.give_back(1)
        writing.join(10)
    assert (spool.numbers, log.last_seq) == ([2, 3], 3)
    assert len([one for one in caplog.records if "is full" in one.message]) == 1
    assert "has room again" in caplog.text
    spool.close()


def test_a_small_chunk_that_passes_a_large_one_which_waits_takes_no_number_from_it(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, limit=SMALL, file_bytes=SMALL)
    log = SpooledLog(RUN, 1, 1)
    for number in range(2):
        spool.append(log, [record(str(number) * 50_000)])
    full = module.FULL._value.get()
    waiting = threading.Thread(target=spool.append, args=(log, [record("w" * 50_000)]), daemon=True)
    waiting.start()
    eventually(lambda: module.FULL._value.get() == full + 1)
    spool.append(log, [record("small")])
    assert texts(everything(spool))[2:] == ["small"]
    spool.give_back(1)
    waiting.join(10)
    assert [text[:5] for text in texts(everything(spool))] == ["11111", "small", "wwwww"]
    assert log.last_seq == 4
    spool.close()


def test_threads_that_wait_for_room_at_once_lose_nothing_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "DISK_INTERVAL", 0.01)
    spool = Spool.create(tmp_path, limit=SMALL, file_bytes=SMALL)
    logs = [SpooledLog(UUID(int=number), 1, 1) for number in range(1, 9)]
    full = module.FULL._value.get()
    with caplog.at_level(logging.WARNING):
        threads = [threading.Thread(target=_append, args=(spool, log, 5), daemon=True) for log in logs]
        for thread in threads:
            thread.start()
        read: list[Block] = []
        eventually(lambda: module.FULL._value.get() > full)
        eventually(lambda: _take_the_first_file(spool, read) or not any(thread.is_alive() for thread in threads))
    read += everything(spool)
    assert [sum(block.count for block in read if block.run_id == UUID(bytes=log.key[:16])) for log in logs] == [5] * 8
    assert len([one for one in caplog.records if "is full" in one.message]) == module.FULL._value.get() - full
    spool.close()


def _append(spool: Spool, log: SpooledLog, count: int) -> None:
    for _ in range(count):
        spool.append(log, [record("x" * 30_000)])


def _take_the_first_file(spool: Spool, read: list[Block]) -> None:
    """Read the first file and give it back, once it is filled."""
    numbers = spool.numbers
    if len(numbers) < 2:
        return
    data, at, end = spool.open(numbers[0]), 0, spool.end(numbers[0])
    while at < end:
        found, at = read_blocks(data, at, end, max_bytes=10_000)
        read += found
    spool.give_back(numbers[0])


def test_a_full_disk_is_waited_for(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISK_INTERVAL", 0.01)
    allocate, answers = os.posix_fallocate, iter([errno.ENOSPC, errno.EDQUOT])

    def disk(fd: int, offset: int, size: int) -> None:
        if (problem := next(answers, None)) is not None:
            raise OSError(problem, "no room")
        allocate(fd, offset, size)

    monkeypatch.setattr(module.os, "posix_fallocate", disk)
    spool.append(SpooledLog(RUN, 1, 1), [record("kept")])
    assert texts(everything(spool)) == ["kept"]


@pytest.mark.parametrize("problem", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EROFS])
def test_whatever_the_system_lacks_for_a_file_is_waited_for_like_a_full_disk(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    make, answers = module.mmap.mmap, iter([problem, problem])

    def mapped(*arguments: Any, **named: Any) -> Any:
        if (number := next(answers, None)) is not None:
            raise OSError(number, os.strerror(number))
        return make(*arguments, **named)

    monkeypatch.setattr(module.mmap, "mmap", mapped)
    monkeypatch.setattr(module, "DISK_INTERVAL", 0.01)
    log = SpooledLog(RUN, 1, 1)
    spool.append(log, [record("kept")])
    assert (log.last_seq, texts(everything(spool))) == (1, ["kept"])


def test_a_spool_that_may_not_be_written_is_an_error_and_takes_no_number(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EACCES, "broken")

    log = SpooledLog(RUN, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "posix_fallocate", broken)
        with pytest.raises(OSError, match="broken"):
            spool.append(log, [record("lost")])
    assert log.last_seq == 0
    spool.append(log, [record("kept")])
    assert texts(everything(spool)) == ["kept"]


# -- damage


def spooled_file(tmp_path: Path, count: int) -> tuple[Path, list[int]]:
    """A file with so many records, and where each begins."""
    spool = Spool.create(tmp_path)
    log = SpooledLog(RUN, 1, 1)
    begins = [0]
    for number in range(count):
        spool.append(log, [record(f"line {number:04} {'x' * 200}")])
        begins.append(spool.end(1))
    spool.close()
    (path,) = tmp_path.rglob("*.spool")
    return path, begins


def left(tmp_path: Path) -> list[int]:
    """The numbers of the lines that are read of what was left."""
    (spool,) = take_over(tmp_path)
    try:
        return [int(text.split()[1]) for text in texts(everything(spool))]
    finally:
        spool.close()


@pytest.mark.parametrize("record_hit", [0, 5, 9])
@pytest.mark.parametrize("offset", [0, 2, 5, 9, 12, 20, 44, 60, 100])
def test_a_damaged_record_costs_that_record_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_hit: int, offset: int
) -> None:
    path, begins = spooled_file(tmp_path, 10)
    before = damaged()
    with path.open("r+b") as file:
        file.seek(begins[record_hit] + offset)
        byte = file.read(1)[0]
        file.seek(begins[record_hit] + offset)
        file.write(bytes([byte ^ 0x10]))
    assert left(tmp_path) == [number for number in range(10) if number != record_hit]
    assert damaged() == before + 1
    assert "damaged" in caplog.text


def test_a_page_that_never_reached_the_disk_costs_the_records_on_it(tmp_path: Path) -> None:
    path, begins = spooled_file(tmp_path, 100)
    page = mmap.PAGESIZE
    with path.open("r+b") as file:
        file.seek(page)
        file.write(bytes(page))
    hit = [number for number in range(100) if begins[number] < 2 * page and begins[number + 1] > page]
    assert left(tmp_path) == [number for number in range(100) if number not in hit]


@pytest.mark.parametrize("cut", [1, 100, 250])
def test_a_tail_that_was_cut_costs_the_last_record(tmp_path: Path, cut: int) -> None:
    path, begins = spooled_file(tmp_path, 10)
    os.truncate(path, begins[10] - cut)
    assert left(tmp_path) == list(range(9))


def test_an_undamaged_file_is_not_called_damaged(tmp_path: Path) -> None:
    spooled_file(tmp_path, 10)
    before = damaged()
    assert left(tmp_path) == list(range(10))
    assert damaged() == before


def test_a_chunk_that_looks_like_a_record_is_none(spool: Spool) -> None:
    spool.append(SpooledLog(RUN, 1, 1), [record(spool_records._RECORD_BEGINS * 3), record("next")])
    assert everything(spool)[0].chunks()[1].data == b"next"


# -- who has it


def test_a_spool_that_is_held_is_not_taken_over(spool: Spool, tmp_path: Path) -> None:
    spool.append(SpooledLog(RUN, 1, 1), [record("mine")])
    assert list(take_over(tmp_path)) == []


def test_two_workers_on_one_folder_have_a_spool_each(spool: Spool, tmp_path: Path) -> None:
    other = Spool.create(tmp_path)
    spool.append(SpooledLog(RUN, 1, 1), [record("mine")])
    other.append(SpooledLog(RUN, 1, 1), [record("theirs")])
    assert texts(everything(spool)) == ["mine"]
    assert texts(everything(other)) == ["theirs"]
    other.close()


def test_a_spool_that_was_let_go_is_taken_over_by_one_who_asks(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    spool.append(SpooledLog(RUN, 1, 1), [record("left")])
    spool.close()
    (taken,) = take_over(tmp_path)
    assert list(take_over(tmp_path)) == []
    assert texts(everything(taken)) == ["left"]
    taken.close()


def test_an_empty_spool_leaves_nothing_behind(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    spool.append(SpooledLog(RUN, 1, 1), [record("x")])
    spool.fill_no_more()
    spool.give_back(1)
    spool.close()
    assert list(tmp_path.iterdir()) == []


WRITER = r"""
import sys
from pathlib import Path
from typing import Any
from uuid import UUID
from reprieve.adapters.spool import Spool, SpooledLog
from reprieve.models.chunks import encode
spool, log = Spool.create(Path(sys.argv[1]), file_bytes=1), SpooledLog(UUID(int=1), 1, 1)
number = 0
while True:
    spool.append(log, [encode((0, "stdout", b"line %d" % number, None))])
    sys.stdout.buffer.write(b"%d\n" % number)
    sys.stdout.buffer.flush()
    number += 1
"""


def test_a_file_that_a_killed_worker_had_just_begun_holds_nothing_and_holds_up_nothing(tmp_path: Path) -> None:
    """It was killed between making the file and giving it its size."""
    left = Spool.create(tmp_path)
    left.append(SpooledLog(RUN, 1, 1), [record("a line")])
    folder = left.folder
    left._lock_file.close()
    (folder / "00000002.spool").touch()
    (spool,) = take_over(tmp_path)
    assert texts(everything(spool)) == ["a line"]
    assert spool.numbers == [1]
    spool.close()
    assert not (folder / "00000002.spool").exists()


def test_what_a_killed_worker_had_appended_is_all_there(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(2000):
            writer.stdout.readline()
        assert list(take_over(tmp_path)) == []
        writer.send_signal(signal.SIGKILL)
        appended = [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    (spool,) = take_over(tmp_path)
    read = texts(everything(spool))
    spool.close()
    assert read == [f"line {number}" for number in range(len(read))]
    assert len(read) > max(appended, default=1999)
