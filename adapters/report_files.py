"""The files in which commands of this host say something of themselves, a line of JSON each (`models.saying`).

All of an adapter are in one flat folder. A file is there once its command has said something, and only then: one look
at the folder tells of all of them, and a command that says nothing costs nothing.

A command may do to its file what it likes. Whatever is no line of JSON, or none that says what a report may say, is
passed over, and told once; a file is read up to a bound, and never waited for.
"""

import asyncio
import errno
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from reprieve.adapters.masking import Masker
from reprieve.adapters.protocol import AsyncContext, Attempt
from reprieve.models.errors import InvalidRequest
from reprieve.models.saying import MAX_FILE, MAX_LINE, report_of_line

logger = logging.getLogger(__name__)

#: Seconds between two looks at the folder.
LOOK_INTERVAL = 2.0
#: Bytes that are read at once: some hundred reports, which take the loop some milliseconds.
READ_SIZE = 16 * 1024
#: How often the end of a file is tried to be read, so many seconds apart, where this host is short of something.
LAST_TRIES, LAST_PAUSE = 10, 0.2


class ReportFiles:
    """Those of one adapter, which are followed on its event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._followed: dict[str, ReportFile] = {}
        self._looking: asyncio.Task[None] | None = None

    def ready(self, attempt: Attempt) -> Path | None:
        """Where a command that is to be started may say something; None where there can be no such place just now."""
        try:
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
        except OSError as problem:
            logger.warning("Run %s can say nothing of itself: %s", attempt[0], problem)
            return None
        return self._folder / _name(attempt)

    @contextmanager
    def followed(
        self, context: AsyncContext, masker: Callable[[], Masker], wake: Callable[[], object] = lambda: None
    ) -> "Iterator[ReportFile]":
        """The file of the context's attempt. While the block lasts, `wake` is called when it has grown."""
        name = _name((context.run_id, context.attempt))
        one = self._followed[name] = ReportFile(self._folder / name, context, masker, wake)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield one
        finally:
            # A worker may follow anew what a follower of its own is just leaving.
            if self._followed.get(name) is one:
                del self._followed[name]
            if self._looking is not None and not self._followed:
                self._looking.cancel()
                self._looking = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            # Without a folder, nobody has been told of one; and what cannot be seen just now is seen later.
            with suppress(OSError), os.scandir(self._folder) as entries:
                for entry in entries:
                    if (one := self._followed.get(entry.name)) is not None:
                        with suppress(OSError):  # A command may remove its own, again and again; others are seen.
                            one.look(entry.stat(follow_symlinks=False).st_size)

    def kept(self) -> list[Attempt]:
        """The attempts that have a file here."""
        try:
            return [found for path in self._folder.iterdir() if (found := _attempt_of(path.name)) is not None]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def forget(self, attempt: Attempt) -> None:
        """Remove the file of an attempt, or whatever the command has put in its place. Idempotent."""
        path = self._folder / _name(attempt)
        try:
            path.unlink(missing_ok=True)
        except (IsADirectoryError, PermissionError):
            shutil.rmtree(path, ignore_errors=True)


def _name(attempt: Attempt) -> str:
    return f"{attempt[0]}.{attempt[1]}"


def _attempt_of(name: str) -> Attempt | None:
    run_id, _, number = name.partition(".")
    try:
        return UUID(run_id), int(number)
    except ValueError:
        return None


class ReportFile:
    """What one command says, from the first line that nobody has taken yet.

    The number of a report is that of its line. Who follows a command that another worker has started reads its file
    again, and passes over what was taken. Where it has fewer lines than were taken, it was cut meanwhile.
    """

    def __init__(
        self, path: Path, context: AsyncContext, masker: Callable[[], Masker], wake: Callable[[], object]
    ) -> None:
        self._path, self._context, self._masker, self._wake = str(path), context, masker, wake
        self._place, self._line = 0, 0
        self._begun = b""
        self._size_seen = 0
        #: Whether the line that was begun is already longer than any may be.
        self._is_too_long = False
        self._has_told = False
        self._has_grown = context.reported > 0
        #: How many lines had been taken before this follower.
        self._before = context.reported

    def look(self, size: int) -> None:
        """Note how long it is now, and have what could not be read at the last look be tried again."""
        if size != self._size_seen:
            self._size_seen, self._has_grown = size, True
        if self._has_grown:
            self._wake()

    async def take(self) -> None:
        """Hand over the lines that it has gained since it was looked at last, if any. Raises `Released`."""
        if not self._has_grown:
            return
        self._has_grown = False
        try:
            await self._take_all()
        except OSError:  # Too few descriptors, say: after another look at the folder.
            self._has_grown = True

    async def take_rest(self) -> None:
        """The command has ended: hand over all that is left, a last line that does not end, too. Raises `Released`."""
        for _ in range(LAST_TRIES):
            try:
                await self._take_all()
                break
            except OSError as error:
                problem = error
                await asyncio.sleep(LAST_PAUSE)
        else:
            await self._tell(f"What it said of itself last could not be read ({problem.strerror}).")
        if self._begun or self._is_too_long:
            await self._take_line(b"")

    async def _take_all(self) -> None:
        while data := await self._read():
            *lines, rest = data.split(b"\n")
            for line in lines:
                await self._take_line(line)
            if len(self._begun) + len(rest) > MAX_LINE:
                self._begun, self._is_too_long = b"", True
            elif not self._is_too_long:
                self._begun += rest
            await asyncio.sleep(0)  # The other runs of this loop have their turn.
        if self._line < self._before:
            await self._tell(
                f"The file of its reports has {self._line} lines, and {self._before} of it were taken before: it was "
                "cut, where each is to be appended. What was taken is counted, and what comes from here on."
            )
            self._line = self._before

    async def _read(self) -> bytes:
        """The next piece; empty where there is none."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM):
                raise
            await self._tell("What it says of itself is not read: its file is none that can be read any more.")
            return b""
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                await self._tell("What it says of itself is not read: something else is in the place of its file.")
                return b""
            if found.st_size < self._place:
                await self._tell(
                    f"The file of its reports was cut from {self._place} to {found.st_size} bytes, where each is to be "
                    "appended. What was read of it is counted, and what comes from here on."
                )
                self._place, self._begun = found.st_size, b""
            if self._place >= MAX_FILE:
                await self._tell(f"It has said more than {MAX_FILE} bytes of itself; the rest is not read.")
                return b""
            data = os.pread(fd, min(READ_SIZE, MAX_FILE - self._place), self._place)
        finally:
            os.close(fd)
        self._place += len(data)
        return data

    async def _take_line(self, end: bytes) -> None:
        line, self._begun = self._begun + end, b""
        is_too_long, self._is_too_long = self._is_too_long or len(line) > MAX_LINE, False
        self._line += 1
        if self._line <= self._context.reported or not (line.strip() or is_too_long):
            return
        try:
            report = report_of_line(line, self._mask, is_whole=not is_too_long)
            self._context.report(**report.as_given(), number=self._line)
        except InvalidRequest as problem:
            await self._tell(f"Line {self._line} of its reports was passed over: {problem}")

    def _mask(self, text: str) -> str:
        masker = self._masker()
        return (masker.feed(text.encode("utf-8", "surrogatepass")) + masker.flush()).decode("utf-8", "replace")

    async def _tell(self, sentence: str) -> None:
        """Tell of the first thing that is wrong: there may be a million of them."""
        if not self._has_told:
            self._has_told = True
            await self._context.note(f"{sentence} Nothing else that is wrong with them is told.")
