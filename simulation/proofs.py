"""Proof of life on its way to `updated_at`: what of a tick refreshes which row, through the throttle."""

from dataclasses import dataclass

import numpy as np

from reprieve.models.liveness import REFRESH_INTERVAL, SHIP_AGAIN_AFTER, SHIP_AGAIN_DOUBLINGS
from reprieve.simulation.conditions import TICK, Conditions
from reprieve.simulation.fleet import HEARTBEAT, KEEPALIVE, OUTPUT, Fleet, Kind, Truth
from reprieve.simulation.spans import Bools, Floats, Ints

REFRESH = REFRESH_INTERVAL.total_seconds()
#: The longest wait before a batch that was lost is sent again.
LONGEST_WAIT = SHIP_AGAIN_AFTER * 2**SHIP_AGAIN_DOUBLINGS


@dataclass(frozen=True, slots=True)
class Proofs:
    """Of these runs, when the first proof of a tick comes that the throttle lets through, and of which kind."""

    runs: Ints
    at: Floats
    kind: Ints


def of_tick(fleet: Fleet, here: Conditions, active: Ints, tick: int, rng: np.random.Generator) -> Proofs:
    """The proofs of one tick. Which refresh a row, that is `apply`'s: the row may end in between."""
    until = (tick + 1) * TICK
    beats = _beats(fleet, here, active, tick)
    output = _output(fleet, here, active, tick, rng)
    again = np.where(fleet.pending[active] >= fleet.throttled[active], fleet.pending[active], np.inf)
    fleet.pending[active] = np.where(fleet.pending[active] < until, np.inf, fleet.pending[active])
    spoken = np.minimum(output, again)
    own = np.where(fleet.kind[active] == Kind.IN_PROCESS.value, KEEPALIVE, HEARTBEAT)
    return Proofs(active, np.minimum(beats, spoken), np.where(beats <= spoken, own, OUTPUT))


def apply(fleet: Fleet, proofs: Proofs, until: float) -> None:
    """Refresh the rows whose proof came before `until`, and set their throttle: `REFRESH` and its condition."""
    runs = proofs.runs
    came = (proofs.at < until) & (proofs.at >= fleet.throttled[runs]) & (proofs.at > fleet.updated[runs])
    came &= fleet.state[runs] == Truth.RUNNING.value
    at = runs[came]
    fleet.updated[at] = proofs.at[came]
    fleet.throttled[at] = proofs.at[came] + REFRESH
    fleet.proof[at] = proofs.kind[came]


def _beats(fleet: Fleet, here: Conditions, active: Ints, tick: int) -> Floats:
    """Keepalives and heartbeats: of work that its worker sees alive at its turn."""
    times = here.beats[tick][np.maximum(fleet.worker[active], 0)]
    seen = fleet.followed[active] & (times < fleet.last_alive(active)) & (times >= fleet.followed_since[active])
    waits = times < fleet.created[active]
    seen &= ~waits | fleet.waiting_is_said
    if here.platform.holds(tick * TICK):
        seen &= (fleet.kind[active] != Kind.PLATFORM.value) | waits
    return np.where(seen & (times >= fleet.throttled[active]), times, np.inf)


def _output(fleet: Fleet, here: Conditions, active: Ints, tick: int, rng: np.random.Generator) -> Floats:
    """When the first output that is new, and not throttled, is stored in this tick; only of out-of-process work."""
    start, until = tick * TICK, (tick + 1) * TICK
    found = np.full(len(active), np.inf)
    of_interest = (fleet.kind[active] != Kind.IN_PROCESS.value) & (fleet.throttled[active] < until)
    at = active[of_interest]
    if not len(at):
        return found
    earliest = np.maximum(fleet.throttled[at], start)
    arrives = _arrival(fleet, here, at, here.queue.earliest_sent(earliest), earliest)
    arrives = _after_losses(fleet, here, at, arrives, until, rng)
    found[of_interest] = arrives
    return found


def _arrival(fleet: Fleet, here: Conditions, at: Ints, sent: Floats, earliest: Floats) -> Floats:
    """When the first of what these runs had sent at these times or later is stored."""
    sent = np.maximum(sent, fleet.followed_since[at])
    sender = _sender(fleet, here, at)
    tick = _tick(here, sent)
    free = here.next_send[tick, sender]
    read_from = here.reads_from[free, sender]
    late = (free > tick) | (read_from < free * TICK)
    sent = np.maximum(sent, free * TICK)
    first_read = np.where(late, read_from, sent)
    first_read = np.where(sent <= fleet.followed_since[at] + 1, fleet.unread_from[at], first_read)
    printed = fleet.next_print(at, np.maximum(first_read, fleet.unread_from[at]))
    sent = np.maximum(printed, sent)
    said = (printed < fleet.last_alive(at)) & (sent < fleet.left_at[at]) & here.sends[_tick(here, sent), sender]
    return np.where(said, np.maximum(here.queue.stored_at(sent), earliest), np.inf)


def _sender(fleet: Fleet, here: Conditions, at: Ints) -> Ints:
    worker = np.where(fleet.worker[at] < 0, here.workers, fleet.worker[at])
    return np.where(fleet.kind[at] == Kind.PLATFORM.value, worker + here.workers + 1, worker).astype(np.int64)


def _tick(here: Conditions, times: Floats) -> Ints:
    return np.minimum(times // TICK, here.ticks).astype(np.int64)


def _after_losses(
    fleet: Fleet, here: Conditions, at: Ints, arrives: Floats, until: float, rng: np.random.Generator
) -> Floats:
    """The same where messages are lost: one is sent again, and again; of a chatty run the next one comes anyway."""
    share = here.loss(until - TICK)
    due = (arrives < until) & ~fleet.chatty[at]
    if share == 0.0 or not due.any():
        return np.where(arrives < until, arrives, np.inf)
    tries = np.zeros(len(at))
    tries[due] = rng.geometric(1 - share, int(due.sum())) - 1
    again = np.minimum(tries, SHIP_AGAIN_DOUBLINGS + 1)
    delay = SHIP_AGAIN_AFTER * (2**again - 1) + LONGEST_WAIT * (tries - again)
    delayed = arrives + delay
    held = due & (delayed >= until)
    fleet.pending[at[held]] = np.minimum(fleet.pending[at[held]], delayed[held])
    return np.where((arrives < until) & (delayed < until), delayed, np.inf)


def lose_on_the_way(fleet: Fleet, here: Conditions, active: Ints, flush: float, rng: np.random.Generator) -> None:
    """Redis is flushed: throttle keys are gone, and so is output on its way, which its shippers send again."""
    fleet.throttled[active] = 0.0
    since, _ = here.queue.lost_at(flush)
    since_followed = np.maximum(since, fleet.followed_since[active])
    printed = fleet.next_print(active, since_followed)
    lost: Bools = (
        (printed < flush) & (printed < fleet.last_alive(active)) & (fleet.kind[active] != Kind.IN_PROCESS.value)
    )
    at = active[lost & ~fleet.chatty[active]]
    again = flush + rng.uniform(SHIP_AGAIN_AFTER, LONGEST_WAIT, len(at))
    fleet.pending[at] = np.minimum(fleet.pending[at], here.queue.stored_at(again))
