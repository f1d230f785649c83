"""When a run may be claimed whose attempt began nothing."""

#: Seconds for which an attempt that began nothing goes back into the queue, doubled with each time …
TAKEN_BACK_FOR = 1.0
#: … up to this many doublings (64 s): each time costs two events. No time scale makes a machine recover faster.
TAKEN_BACK_DOUBLINGS = 6
