"""Reporting what a worker holds of logs that the store does not have: it is late, and not missing."""

import logging
import time
from collections.abc import Callable, Iterable
from uuid import UUID, uuid4

from reprieve.adapters.shipper_source import Batch, Held, Source
from reprieve.models.sequences import spans

logger = logging.getLogger(__name__)

#: Seconds for which the oldest output may be held before that is reported: it is stored within a second otherwise.
HOLD_AFTER = 2.0
#: Seconds between two reports, where what is held has changed …
HOLD_INTERVAL = 5.0
#: … and where it has not.
HOLD_RENEWAL = 15.0

Hold = Callable[[UUID, Held], None]


class Holdings:
    """Reports what is held for more than a moment, if that has changed, or was reported long ago."""

    def __init__(self, hold: Hold | None) -> None:
        self._hold = hold
        self._id = uuid4()
        self._reported: Held = {}
        self._report_at = 0.0
        self._renew_at = 0.0

    def report(self, on_their_way: Iterable[Batch], sources: Iterable[Source]) -> None:
        now = time.monotonic()
        if self._hold is None or now < self._report_at:
            return
        batches = list(on_their_way)
        oldest = min((batch.read_at for batch in batches), default=now)
        held: Held = {}
        if now - oldest >= HOLD_AFTER:
            holders: list[Batch | Source] = [*batches, *sources]
            held = spans(one for holder in holders for one in holder.held)
        if held.keys() == self._reported.keys() and not (held and now >= self._renew_at):
            return
        self._report_at = now + HOLD_INTERVAL if held else now
        try:
            self._hold(self._id, held)
            self._reported, self._renew_at = held, now + HOLD_RENEWAL
        except Exception as error:
            self._report_at = now + HOLD_INTERVAL
            logger.warning("What this worker holds could not be reported (%s).", type(error).__name__)
