"""Sends the notices that are owed: each control worker looks every two seconds, on a thread of its own.

It is one event loop, so that a receiver that hangs costs a socket, and a few of its own notices; the others go on.
What a notice tells of its run is read when it is sent; what it tells of, and its id, are in its row.
"""

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any, TypeVar
from uuid import UUID

from reprieve.models.errors import LogLost, LogRemoved, LogUnavailable, RunNotFound
from reprieve.models.faults import is_unfit
from reprieve.models.notices import SENTENCE_LENGTH, SENTENCES, Due, NoticeState, last_lines, signature
from reprieve.models.owed import reason_of
from reprieve.models.records import Run
from reprieve.stores.extents import extent_of
from reprieve.workers import metrics
from reprieve.workers.bootstrap import Services
from reprieve.workers.explaining import explain
from reprieve.workers.posting import NotPosted, post

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks at what is owed.
LOOK_INTERVAL = 2.0
#: Notices under way at once in one process, and of them to one receiver.
AT_ONCE, TO_ONE_RECEIVER = 32, 4
#: How long a try has a notice to itself: longer than one takes, with what is read before it.
LEASE = timedelta(minutes=2)
#: The last lines of an attempt that has ended are waited for so long, and looked for so often.
LINES_WAIT, LINES_PAUSE = timedelta(seconds=15), timedelta(seconds=1)
#: Chunks that are read for the last lines.
CHUNKS_READ = 100
#: Threads that read what a notice tells: an archive that hangs keeps few of them.
READERS = 4
#: Threads that resolve names, one for each notice under way, and as many for those whose name was given up before the
#: system's resolver did: a name that nobody resolves holds up no other.
RESOLVERS = 2 * AT_ONCE
#: Seconds in which the sender ends.
CLOSE_TIMEOUT = 5.0


class NotYet(Exception):
    """Raised when what a notice is to tell is not complete, and will be soon."""


class Sender:
    """One per process that sends notices."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Send what is owed from now on, on a thread that ends with the process, or at `close`."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()), name="notices", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End. What is under way is left, and sent again by another process."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)

    async def _send(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(RESOLVERS, "names"))
        turns = Turns(self._services)
        while not self._ended.is_set():
            begun = 0
            try:
                begun = await turns.begin()
            except Exception as error:
                logger.warning("Notices are late: %s.", type(error).__name__, exc_info=not is_unfit(error))
            await turns.wait(0.0 if begun else LOOK_INTERVAL, self._ended)
        turns.close()


class Turns:
    """What is under way in this process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._busy: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        # Not the loop's own, where names are resolved: one that hangs there holds up no reading.
        self._readers = ThreadPoolExecutor(READERS, "notices")

    async def begin(self) -> int:
        """Begin what there is room for; returns how many that were."""
        room = AT_ONCE - len(self._tasks)
        if room <= 0:
            return 0
        due = await self._read(self._services.notices.begin, TO_ONE_RECEIVER, dict(self._busy), room, LEASE)
        for one in due:
            self._busy[one.receiver] += 1
            task = asyncio.create_task(self._try(one))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(due)

    async def wait(self, seconds: float, ended: threading.Event) -> None:
        """Until one of those that are under way is done, where there was nothing more to begin, or for so long."""
        until = time.monotonic() + seconds
        while not ended.is_set() and time.monotonic() < until:
            left = min(0.2, max(0.0, until - time.monotonic()))
            if not self._tasks:
                await asyncio.sleep(left)
            elif (await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED))[0]:
                return

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _try(self, due: Due) -> None:
        try:
            await self._carry_out(due)
        except Exception as error:
            # What came of it could not be written. Its row says that it was tried: it is tried again after the lease.
            logger.warning("A notice is late: %s.", type(error).__name__, exc_info=not is_unfit(error))
        finally:
            self._busy[due.receiver] -= 1
            if not self._busy[due.receiver]:
                del self._busy[due.receiver]

    async def _carry_out(self, due: Due) -> None:
        notices = self._services.notices
        try:
            await self._post(due)
        except NotYet:
            await self._read(notices.put_off, due, LINES_PAUSE)
        except Exception as error:
            reason = str(error) if isinstance(error, NotPosted) else reason_of(error)
            became = await self._read(notices.failed, due, reason)
            metrics.NOTICES.labels("failed").inc()
            log = logger.error if became is NoticeState.UNDELIVERABLE else logger.info
            log("The notice %s of run %s was not taken (%s); it is %s.", due.id, due.run_id, reason, became or "owed")
        else:
            await self._read(notices.sent, due)
            metrics.NOTICES.labels("sent").inc()

    async def _post(self, due: Due) -> None:
        settings = self._services.settings
        if not (secrets := settings.notice_secrets):
            raise NotPosted("REPRIEVE_NOTICE_SECRET is not set for the worker that sends it")
        body = json.dumps(await self._read(told, self._services, due), separators=(",", ":")).encode()
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Reprieve",
            "webhook-id": str(due.id),
            "webhook-timestamp": str(now),
            "webhook-signature": signature(secrets, str(due.id), now, body),
        }
        await post(due.url, body, headers, settings.notices_may_go_to)

    async def _read(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call, *arguments)


def told(services: Services, due: Due) -> dict[str, Any]:
    """The body of a notice. Raises `NotYet` while the last lines of an attempt that ended just now are on their way."""
    body: dict[str, Any] = {"type": "test", "timestamp": due.at.astimezone(UTC).isoformat()}
    if due.run_id is None:
        return body | {"data": {"kind": due.kind, "rule": due.rule}}
    lines = _lines(services, due.run_id, due)
    explanation = replace(explain(services, due.run_id), notices=())
    run = Run.of(explanation.run)
    data = {
        "kind": due.kind,
        "rule": due.rule,
        "attempt": due.attempt,
        "run": run.model_dump(mode="json", exclude={"attempts"}),
        "error": None if run.error_code is None else {"code": run.error_code, "message": run.error_message},
        "sentences": [sentence[:SENTENCE_LENGTH] for sentence in explanation.sentences[:SENTENCES]],
        "lines": lines,
        "link": f"{services.settings.link_to_page}/#/runs/{due.run_id}",
    }
    return body | {"type": f"run.{due.kind}", "data": data}


def _lines(services: Services, run_id: UUID, due: Due) -> list[str] | None:
    """The last lines of the attempt; None where its log cannot be read."""
    try:
        extent = extent_of(services.database, run_id, due.attempt)
        stored = max(extent.stored.last, extent.archived.last if extent.archived else 0)
        if extent.ended_for is not None and not extent.is_read(stored) and due.age < LINES_WAIT:
            raise NotYet
        return last_lines(services.logs.read(run_id, due.attempt, max(0, stored - CHUNKS_READ), CHUNKS_READ))
    except RunNotFound:  # It was cancelled before its first attempt.
        return []
    except (LogUnavailable, LogRemoved, LogLost):
        return None
