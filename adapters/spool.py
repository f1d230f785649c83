"""The spool: a worker's output on disk, until the store has it.

A spool is a folder of files, each of one size, filled one after the other. A chunk is in its file when `append`
returns: in the page cache, that is, so it outlives `kill -9` of the worker but perhaps not a power cut. Files are
written through memory maps, since a system call for each chunk would hand the interpreter's lock to another thread
each time.

The form of a file is in `spool_records.py`, reading one after the other in `spool_reader.py`.

A spool belongs to the process that holds the lock on its folder. Two workers on one data folder have two spools; a
spool that nobody holds was left by a worker that was killed, and `take_over` gives it to the first that asks.
"""

import errno
import fcntl
import logging
import mmap
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self
from uuid import UUID, uuid4
from zlib import crc32

from reprieve.adapters.metrics import REGISTRY, counter, gauge
from reprieve.adapters.spool_records import FRAMING, LARGEST, encode_record, pack_key
from reprieve.models.capacity import SPOOL_BYTES
from reprieve.models.faults import is_unfit

logger = logging.getLogger(__name__)

#: Bytes of one file. It is given back as a whole, when the store has all of it.
FILE_BYTES = 16 * 1024 * 1024
#: Bytes that are written at once to have room for a file, where the system has no call for that.
BLOCK_BYTES = 1024 * 1024
#: Seconds between two looks whether a full disk has room again.
DISK_INTERVAL = 1.0

FULL = counter("reprieve_spool_full", "Times that output had to wait because the spool was full.")
BYTES = gauge("reprieve_spool_bytes", "Bytes of the files that the spools of this process occupy.")


def occupied() -> int:
    """Bytes of the files that the spools of this process occupy."""
    return int(REGISTRY.get_sample_value("reprieve_spool_bytes") or 0)


class SpooledLog:
    """One attempt's log as its producer writes it: whose it is, and the number of its last chunk."""

    __slots__ = ("key", "last_seq", "seed")

    def __init__(self, run_id: UUID, attempt: int, epoch: int) -> None:
        self.key = pack_key(run_id, attempt, epoch)
        self.seed = crc32(self.key)
        self.last_seq = 0


class Spool:
    """A folder of files that this process writes, reads and gives back. Thread-safe."""

    def __init__(self, folder: Path, lock: IO[bytes], *, limit: int = SPOOL_BYTES, file_bytes: int = FILE_BYTES):
        self.folder = folder
        self._lock_file = lock
        self._file_bytes = max(min(file_bytes, limit // 4), LARGEST)
        self._files_allowed = max(2, limit // self._file_bytes)
        self._numbers = sorted(int(path.stem) for path in _begun(folder))
        self._map = mmap.mmap(-1, 1)  # None is written: there is no room in it.
        self._room = 0
        self._end = 0
        self._is_full = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self.appended = 0
        BYTES.inc(sum(self._path(number).stat().st_size for number in self._numbers))

    @classmethod
    def create(cls, root: Path, *, limit: int = SPOOL_BYTES, file_bytes: int = FILE_BYTES) -> Self:
        """A new spool below `root`. Raises `OSError`."""
        while True:
            folder = root / uuid4().hex
            folder.mkdir(mode=0o700, parents=True)
            try:
                lock = _lock(folder)
            except OSError:
                with suppress(OSError):
                    folder.rmdir()
                raise
            if lock is not None:  # Between the two lines, another worker may have taken it for a spool that was left.
                return cls(folder, lock, limit=limit, file_bytes=file_bytes)

    # -- writing

    def append(self, log: SpooledLog, chunks: Sequence[bytes]) -> None:
        """Number these encoded chunks and write them, one after the other.

        Blocks while spool or disk are full, and while the system lets us make no file (EMFILE, EIO …).
        """
        with self._lock:
            for chunk in chunks:
                # First the room, then the number: while one thread waits for room, another may take both.
                while not self._has_room_for(chunk):
                    self._changed.wait(DISK_INTERVAL)
                self._write(log, chunk)

    def try_append(self, log: SpooledLog, chunk: bytes) -> bool:
        """The same of one chunk, for who may not be blocked: False where `append` would wait."""
        with self._lock:
            if not self._has_room_for(chunk):
                return False
            self._write(log, chunk)
            return True

    def _write(self, log: SpooledLog, chunk: bytes) -> None:
        seq = log.last_seq + 1
        record = encode_record(log.key, log.seed, seq, chunk)
        end = self._end + len(record)
        self._map[self._end : end] = record
        self._end = end
        log.last_seq = seq
        self.appended += 1

    def _has_room_for(self, chunk: bytes) -> bool:
        """Whether it can be written now, where it must be to a file that is begun for it."""
        if self._end + len(chunk) + FRAMING <= self._room:
            return True
        number = self._numbers[-1] + 1 if self._numbers else 1
        begun = self._begin_file(number)
        if begun is None:
            return False
        if self._is_full:
            self._is_full = False
            logger.warning("The spool %s has room again.", self.folder)
        self._map, self._end, self._room = begun, 0, self._file_bytes
        self._numbers.append(number)
        BYTES.inc(self._file_bytes)
        return True

    def _begin_file(self, number: int) -> mmap.mmap | None:
        """Make the next file; None where the spool's limit, the disk or the system does not allow it just now."""
        if len(self._numbers) >= self._files_allowed:
            self._say_full("it is full")
            return None
        try:
            with self._path(number).open("w+b") as file:
                _allocate(file.fileno(), self._file_bytes)
                return mmap.mmap(file.fileno(), self._file_bytes)
        except (OSError, MemoryError) as error:
            with suppress(OSError):
                self._path(number).unlink(missing_ok=True)
            if not is_unfit(error):
                raise
            self._say_full(str(error))
            return None

    def _say_full(self, why: str) -> None:
        if not self._is_full:
            self._is_full = True
            FULL.inc()
            logger.warning("The spool %s takes nothing just now: %s. Output waits.", self.folder, why)

    # -- giving back

    @property
    def numbers(self) -> list[int]:
        """The files that are there, in the order in which they were filled."""
        with self._lock:
            return list(self._numbers)

    def is_filled(self, number: int) -> bool:
        """Whether nothing more is written to a file."""
        with self._lock:
            return not self._room or number != self._numbers[-1]

    def end(self, number: int) -> int:
        """How far a file is worth reading: as far as it is written, or all of it."""
        with self._lock:
            if self._room and number == self._numbers[-1]:
                return self._end
        return self._path(number).stat().st_size

    def fill_no_more(self) -> None:
        """Write nothing more: whatever is in its files can then be given back."""
        with self._lock:
            self._room = 0

    def open(self, number: int) -> mmap.mmap:
        """A file's bytes, as they are and as they become; also those of a file that was kept."""
        kept = self._kept_path(number)
        with (kept if kept.exists() else self._path(number)).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def give_back(self, number: int) -> None:
        """Delete a file: the store has all of it."""
        self.keep(number)
        self.forget(number)

    def keep(self, number: int) -> None:
        """Put a file aside: the store has all of it, and may yet need it again. It takes no room from other files.

        A worker that takes this folder over does not ship it.
        """
        with suppress(FileNotFoundError):  # Somebody has deleted it.
            self._path(number).rename(self._kept_path(number))
        with self._changed:
            self._numbers.remove(number)
            self._changed.notify_all()

    def forget(self, number: int) -> None:
        """Delete a file that was kept."""
        path = self._kept_path(number)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            BYTES.dec(size)

    @property
    def lacks_room(self) -> bool:
        """Whether output waits for room just now."""
        return self._is_full

    def close(self) -> None:
        """Let go of the folder; delete it if it is empty, leave it to the next worker if it is not."""
        self.fill_no_more()
        if not self._numbers:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_file.close()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08}.spool"

    def _kept_path(self, number: int) -> Path:
        return self.folder / f"{number:08}.shipped"


def _begun(folder: Path) -> list[Path]:
    """The files of a spool that may hold anything. An empty file is left from a worker that was killed making it."""
    files = list(folder.glob("*.spool"))
    for path in files:
        if path.stat().st_size == 0:
            path.unlink()
    return [path for path in files if path.exists()]


def take_over(root: Path) -> Iterator[Spool]:
    """The spools below `root` that no process holds, now held by this one."""
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        lock = None
        with suppress(OSError):  # It cannot be opened just now.
            lock = _lock(folder)
        if lock is not None:
            yield Spool(folder, lock)


def _lock(folder: Path) -> IO[bytes] | None:
    """The lock of a spool; None where somebody else holds it, or it is gone. Raises `OSError`."""
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError:
        lock.close()
        raise
    if (folder / "lock").exists():
        return lock
    lock.close()  # Its owner has just ended and deleted it.
    return None


def _allocate(fd: int, size: int) -> None:
    """Have room on the disk now: a map on a file with holes would end the process where that is full.

    Raises `OSError`.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    for offset in range(0, size, BLOCK_BYTES):  # macOS has no such call.
        block = bytes(min(BLOCK_BYTES, size - offset))
        if os.pwrite(fd, block, offset) < len(block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
