"""The log queue: when what is sent at a time is stored. First in, first out; what a flush of Redis loses is sent again.

Held as tables with an entry per second of virtual time, so that thousands of runs are looked up at once.
"""

from collections.abc import Sequence

import numpy as np

from reprieve.simulation.faults import Fault
from reprieve.simulation.plan import FaultKind
from reprieve.simulation.spans import Bools, Floats, Ints, Spans

#: Seconds from a chunk that is printed to its proof of life, while nothing is wrong.
TRANSIT = 0.5
#: Seconds that a shipper, or an ingesting worker, takes to notice that what it needs is back: the longest wait between
#: two of its tries (`LogShipper._send`, `ingest_task`).
NOTICE = 10.0
#: Seconds of the end of a backlog's growth, as a share of its length, and the height of its peak, as another.
PEAK_AT, PEAK = 0.4, 1 / 3


class LogQueue:
    """The way of output from a shipper to the store, broker and ingest included."""

    def __init__(self, faults: Sequence[Fault], broker: Spans, database: Spans, horizon: float) -> None:
        sent = np.arange(int(horizon) + 7200, dtype=np.float64)
        flushes = [fault.start for fault in faults if fault.kind is FaultKind.REDIS_FLUSH]
        self.arrival: Floats = self._arrivals(sent, faults, broker, database, flushes)
        self._lost: Bools = np.zeros(len(sent), dtype=np.bool_)
        self._after_flush: Ints = np.arange(len(sent))
        order = self.arrival.copy()
        for flush in flushes:
            gone = (sent < flush) & (self.arrival > flush)
            self._lost |= gone
            self._after_flush[gone] = int(flush) + 1
            order[gone] = flush
        self._first: Ints = np.searchsorted(np.maximum.accumulate(order), sent).astype(np.int64)

    @staticmethod
    def _arrivals(
        sent: Floats, faults: Sequence[Fault], broker: Spans, database: Spans, flushes: Sequence[float]
    ) -> Floats:
        taken = _back(broker, sent)
        lag = np.zeros(len(sent))
        for fault in faults:
            if fault.kind is FaultKind.BACKLOG:
                length = fault.end - fault.start
                knots = [fault.start, fault.start + PEAK_AT * length, fault.end]
                one = np.interp(taken, knots, [0.0, PEAK * length, 0.0])
                for flush in flushes:  # What had piled up is gone with it.
                    if fault.start < flush < fault.end:
                        one = np.where(taken >= flush, 0.0, one)
                lag = np.maximum(lag, one)
        stuck = Spans((one.start, one.end) for one in faults if one.kind is FaultKind.LOG_WORKERS_STUCK)
        return _back(stuck.union(broker, database), taken + lag) + TRANSIT

    def stored_at(self, sent: Floats) -> Floats:
        """When what is sent at these times is stored; infinity where a flush loses it."""
        second = np.minimum(sent, len(self.arrival) - 1).astype(np.int64)
        return np.where(self._lost[second], np.inf, self.arrival[second] + (sent - second))

    def earliest_sent(self, stored: Floats) -> Floats:
        """The earliest time of sending of what is stored at these times or later, to a second, and was not lost."""
        second = self._first[np.minimum(stored, len(self._first) - 1).astype(np.int64)]
        second = np.minimum(second, len(self._first) - 1)
        return np.where(self._lost[second], self._after_flush[second], second).astype(np.float64)

    def lost_at(self, flush: float) -> tuple[float, float]:
        """From when to when was sent what a flush at this time loses: all that was on its way."""
        return float(self._first[int(flush)]), flush


def _back(down: Spans, times: Floats) -> Floats:
    """These times, or for one within a span shortly after its end."""
    back = down.release(times)
    return np.where(back > times, np.maximum(back + NOTICE / 2, times), times)
