"""Burying: end work of this host that is owed its end, whichever worker started it.

A failure is recorded in `setbacks`, so that `explain` can report it. When to try again is this worker's own memory:
another worker may have the adapter, or the access to a platform, that this one lacks, and must not wait for it.
"""

import logging
import math
import random
import time
from dataclasses import dataclass, field

from reprieve.adapters.registry import Adapters
from reprieve.models.chunks import LogKey
from reprieve.models.nodes import Whose, whose
from reprieve.models.owed import Duty
from reprieve.models.rows import RunAttempt
from reprieve.models.status import EventKind
from reprieve.models.work import storable
from reprieve.stores.owed import Setbacks
from reprieve.stores.runs.store import RunStore
from reprieve.stores.runs.terminations import TerminationStore
from reprieve.workers.hints import send_execute
from reprieve.workers.identity import Identity
from reprieve.workers.journal import about
from reprieve.workers.turns import set_back, take_turns

logger = logging.getLogger(__name__)

#: Terminations that are tried at once, and the most of those that failed before in one turn.
BURY_AT_ONCE = 8
#: Seconds after which one that has not come to its end keeps no other from its turn.
BURY_DEADLINE = 30.0
#: Seconds before a termination that failed is tried again.
BURY_AGAIN = Duty.TERMINATION.first_pause.total_seconds()


@dataclass(frozen=True)
class Burying:
    """Ends owed work."""

    _identity: Identity
    _adapters: Adapters
    _runs: RunStore
    _terminations: TerminationStore
    _setbacks: Setbacks
    #: What was tried and is owed still, and when, by the monotonic clock, it is tried next; infinity while it is tried.
    _next_try: dict[LogKey, float] = field(default_factory=dict)

    def turn(self) -> None:
        """One turn over all that is owed: what failed before may take long to fail again, so little of it at once."""
        owed = self._terminations.owed(self._identity.held().node)
        tried = list(self._next_try.items())  # A copy: one that hung may come to its end just now.
        for settled in {one for one, _ in tried}.difference(owed):
            self._next_try.pop(settled, None)
        again = [one for one, due_at in tried if one in self._next_try and due_at <= time.monotonic()]
        due = [one for one in owed if one not in self._next_try]
        due += random.sample(again, min(BURY_AT_ONCE, len(again)))
        if due:
            take_turns(due, self._try_to_end, at_once=BURY_AT_ONCE, deadline=BURY_DEADLINE, name="bury")

    def _try_to_end(self, owed: LogKey) -> None:
        self._next_try[owed] = math.inf
        with about(*owed):
            try:
                self._end_work(self._runs.get_attempt(*owed))
            except Exception as error:
                set_back(self._setbacks, Duty.TERMINATION, owed, error)
                host = self._identity.held().node.name
                said = {"host": host, "error": storable(f"{type(error).__name__}: {error}")}
                self._runs.tell_once(*owed, EventKind.TERMINATION_FAILED, said)
            finally:  # What has succeeded is owed no more, and goes at the next turn.
                self._next_try[owed] = time.monotonic() + BURY_AGAIN

    def _end_work(self, attempt: RunAttempt) -> None:
        """End an attempt's work and say so; a run that waited for it may now be started again."""
        run = self._runs.get(attempt.run_id)
        if attempt.work is not None and not self._is_gone(attempt):
            self._adapters.get(run.adapter).terminate(attempt.work)
        if self._terminations.settle(attempt.run_id, attempt.attempt):
            send_execute(attempt.run_id)

    def _is_gone(self, attempt: RunAttempt) -> bool:
        """Whether a child was of a boot, or of a PID namespace, of this node's that is gone."""
        process = attempt.process
        return process is not None and whose(process.namespace, attempt.slot, self._identity.held().node) is Whose.GONE
