"""Who sends a run's message again that a worker could not use, and when.

A worker that has not the run's adapter, or that cannot reach the database, sends the message on, for another worker or
for later: soon at first, so that one of two workers is found within seconds. It gives that up after some minutes, for
it must not go on for days: the row stays queued, the sweep sends it again at gaps of its own, and a worker that has the
adapter asks for such runs as it starts.
"""

#: Seconds until a message that could not be used comes again, doubled with each time …
FIRST_GAP = 0.5
#: … up to this many …
LONGEST_GAP = 10.0
#: … and so often: some two minutes all together.
PASSED_ON = 15

#: Seconds for which an attempt that began nothing goes back into the queue, doubled with each time …
TAKEN_BACK_FOR = 1.0
#: … up to this many doublings (64 s): each time costs two events. No time scale makes a machine recover faster.
TAKEN_BACK_DOUBLINGS = 6


def passed_on_in(times: int) -> float | None:
    """Seconds until a message that was passed on so often comes again; None when it is left to the sweep."""
    return min(FIRST_GAP * 2**times, LONGEST_GAP) if 0 <= times < PASSED_ON else None
