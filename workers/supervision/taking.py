"""Taking: start queued runs, those first that were asked for first, as many as there are places for.

The rows say which runs wait. A message says only that there is one more, so that it is taken at once; a run whose
message is lost is found at the next look. Nothing is held for later: what this worker has no place for stays a row, and
whoever has a place takes it.
"""

import logging
import threading
import time
from collections import Counter
from uuid import UUID

from cachetools import LRUCache

from reprieve.models.places import Places, Room
from reprieve.models.results import last_line
from reprieve.models.work import Work
from reprieve.stores.runs.claims import Claimed
from reprieve.workers.bootstrap import Services
from reprieve.workers.followers import Followers
from reprieve.workers.following import take_back
from reprieve.workers.journal import about
from reprieve.workers.supervision.followed import Followed

logger = logging.getLogger(__name__)

#: Runs of each group of adapters that are claimed by one statement.
CLAIM_AT_ONCE = 50
#: Seconds between two claims, so that those which follow each other closely share a statement.
CLAIM_INTERVAL = 0.02
#: Seconds until lanes are asked for again that another worker was claiming from.
PASSED_OVER_INTERVAL = 0.1
#: Seconds between two looks for runs of which no message has come.
LOOK_INTERVAL = 2.0
#: Runs that one look puts into the queue when their time has come.
LET_IN_AT_ONCE = 1000
#: Messages that are remembered until the next turn.
HINTS_KEPT = 1000


class Taking:
    """Takes runs for the worker that Celery calls `name`; `places` is how many may use its host.

    It serves the lanes that its settings name.
    """

    def __init__(
        self, services: Services, followed: Followed, followers: Followers, places: int, worker_id: UUID, name: str
    ) -> None:
        self._services, self._followed, self._followers = services, followed, followers
        self._here, self._worker_id, self._name = places, worker_id, name
        self._hinted: LRUCache[UUID, bool] = LRUCache(HINTS_KEPT)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._look_at = self._claim_at = 0.0
        #: Whether more runs may wait than messages say.
        self._may_be_more = False
        #: Whether runs wait in lanes that have a limit.
        self._limited = False
        #: Those that this worker could use when it last looked.
        self.adapters: list[str] = []

    def hint(self, run_id: UUID) -> None:
        """A message has come for this run."""
        with self._lock:
            self._hinted[run_id] = True
        self._wake.set()

    def freed(self) -> None:
        """There is a place again."""
        if self._may_be_more or self._limited:
            self._wake.set()

    def wake(self) -> None:
        """Have the next turn be now."""
        self._wake.set()

    def wait(self) -> None:
        """Until there may be something to take, or it is time to look."""
        self._wake.wait(max(0.0, self._look_at - time.monotonic()))
        # Cleared before the rows are read, never after: what comes from here on wakes the next turn.
        self._wake.clear()
        time.sleep(max(0.0, self._claim_at - time.monotonic()))

    def turn(self) -> None:
        """Take what there is room for; now and then, also say what waits for an adapter that this worker has not."""
        self.adapters = adapters = self._services.adapters.usable()
        is_due = time.monotonic() >= self._look_at
        if is_due:
            self._look_at = time.monotonic() + LOOK_INTERVAL
            self._let_in()
        with self._lock:
            hinted = list(self._hinted)
        # As many as messages came for, so that the workers that wait share what comes: all that is there only where
        # more was there than could be taken, and now and then, since messages may be lost.
        everything = is_due or self._may_be_more or self._limited
        limit = CLAIM_AT_ONCE if everything else min(len(hinted), CLAIM_AT_ONCE)
        if limit:
            self._take(adapters, limit)
        if is_due:
            self._say_what_is_lacking(hinted, adapters)

    def _take(self, adapters: list[str], limit: int) -> None:
        # From before the look at what room there is: a place that becomes free after it is looked at again.
        self._may_be_more = True
        all_rooms = self._rooms(adapters)
        rooms = [room for room in all_rooms if room.runs > 0]
        works = self._claim([Room(room.adapters, min(room.runs, limit)) for room in rooms]).works
        with self._lock:
            for work in works:
                self._hinted.pop(work.run_id, None)
        self._services.throttle.forget([work.run_id for work in works])
        for work in works:
            self._begin(work)
        taken = Counter(work.adapter for work in works)
        left = {room.adapters: room.runs for room in self._rooms(adapters)}
        # Those that were full are among them: what waits for them was not looked for.
        filled = [
            room.adapters
            for room in all_rooms
            if sum(taken[name] for name in room.adapters) >= min(room.runs, CLAIM_AT_ONCE)
        ]
        self._may_be_more = bool(filled) or any(runs <= 0 for runs in left.values())
        if any(left[group] > 0 for group in filled):
            self._wake.set()

    def _claim(self, rooms: list[Room]) -> Claimed:
        if not rooms:
            return Claimed([])
        lanes, limited, pause = self._services.settings.lanes, self._limited, CLAIM_INTERVAL
        try:
            claimed = self._services.claims.claim(rooms, self._name, self._worker_id, lanes=lanes, limited=limited)
            self._limited = claimed.limited
            if claimed.passed_over:
                self._wake.set()
                pause = PASSED_OVER_INTERVAL if limited else CLAIM_INTERVAL
            return claimed
        finally:
            self._claim_at = time.monotonic() + pause

    def _let_in(self) -> None:
        """The runs whose time has come; what is left of them by the next turn."""
        if self._services.claims.let_in(LET_IN_AT_ONCE) == LET_IN_AT_ONCE:
            self._look_at = 0.0

    def _rooms(self, adapters: list[str]) -> list[Room]:
        own = {name: limit for name in adapters if (limit := self._services.adapters.own_limit(name)) is not None}
        return Places(self._here, own).rooms(adapters, self._followed.counts())

    def _begin(self, work: Work) -> None:
        with about(work.run_id, work.attempt):
            try:
                self._followers.begin(work)
            except Exception as error:  # The system gives no more threads, or this worker was asked to stop.
                self._take_back(work, last_line(error))

    def _take_back(self, work: Work, why: str) -> None:
        try:
            take_back(self._services, work.fence, f"{self._services.host} could not begin it ({why})")
        except Exception:  # The others that were claimed with it are still to be begun.
            logger.exception("Run %s is not back in the queue yet; that is tried again in a while.", work.run_id)

    def _say_what_is_lacking(self, hinted: list[UUID], adapters: list[str]) -> None:
        """Of those that messages came for before this turn, and that were not taken in it."""
        with self._lock:
            left = [run_id for run_id in hinted if self._hinted.pop(run_id, None)]
        if left:
            for run_id, adapter in self._services.claims.lack(left, self._name, adapters).items():
                logger.info("Run %s stays in the queue: there is no adapter %r here.", run_id, adapter)
