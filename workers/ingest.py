"""`logs.ingest`: a message of blocks becomes stored output, proof of life, and live events.

One transaction stores what is new and refreshes the runs that gave it; after the commit the live events go out. A
message that comes again, late, or cut differently changes nothing but what is missing. Only new output is proof of
life, and only for runs whose liveness is out of process: the row says which. What becomes of a block that fails depends
on what is at fault. Bad content goes to quarantine. An unfit database is waited for, and the message then goes back to
the broker. A fault of our own is logged loudly, and the message goes back behind the others. A block that cannot be
stored never holds up another.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from celery.exceptions import Reject
from sqlalchemy import Connection

from reprieve.models.chunks import Block, LogKey
from reprieve.models.errors import InvalidBlock
from reprieve.models.faults import Fault, fault_of, is_row_held, is_unfit
from reprieve.models.messages import decode_message, describe, encode_message
from reprieve.models.status import Proof
from reprieve.stores.logs import TooScattered
from reprieve.stores.runs.late import note_late_output, printing_of
from reprieve.workers import metrics
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services, services
from reprieve.workers.refresh import refresh
from reprieve.workers.waiting import until_fit

logger = logging.getLogger(__name__)

#: Seconds that a message is tried before it goes back to the broker; far below the visibility timeout.
TRY_FOR = 20
#: Seconds before a message that failed by our own fault goes back, behind all others: nothing mends that in a moment.
OUR_FAULT_PAUSE = 5.0


@app.task(name="logs.ingest", acks_late=True, acks_on_failure_or_timeout=True)  # type: ignore[untyped-decorator]
def ingest_task(message: dict[str, Any]) -> dict[str, int]:
    blocks = decode_message(message)

    # Tried again here, not by a delayed message: a message's delay is counted by the clock of the worker that takes it.
    def tell(tries: int, _: str) -> None:
        logger.error("Ingest failed (try %d), trying again.", tries)

    try:
        return until_fit(lambda: ingest(services(), blocks), tell, stop=lambda tried: tried >= TRY_FOR)
    except Exception as error:
        if not is_unfit(error):
            return _put_behind(blocks)
        logger.error("The database is unfit (%s): %s goes back.", type(error).__name__, describe(blocks))
        raise Reject(type(error).__name__, requeue=True) from None


def _put_behind(blocks: Sequence[Block]) -> dict[str, int]:
    """Send a message that failed by our own fault again, behind all others: its output is neither lost nor refused."""
    logger.exception("Ingest failed by a fault of Reprieve's own: %s goes back, behind the others.", describe(blocks))
    time.sleep(OUR_FAULT_PAUSE)
    try:
        publish(blocks)
    except Exception as error:
        raise Reject(type(error).__name__, requeue=True) from None
    return {"chunks": _count(blocks), "new": 0, "refreshed": 0, "refused": 0}


def ingest(services: Services, blocks: Sequence[Block]) -> dict[str, int]:
    """Store, refresh, publish; quarantine what cannot be stored. A failure releases the throttle keys it took."""
    with metrics.INGEST_SECONDS.time():
        return _take_in(services, blocks)


def _take_in(services: Services, blocks: Sequence[Block]) -> dict[str, int]:
    good, bad = _sorted_out(blocks)
    try:
        report = _store(services, good)
    except Exception as error:
        if is_unfit(error) and not (is_row_held(error) and len(good) > 1):
            raise
        if isinstance(error, _Refused) and error.blocks:
            bad += [(block, str(error)) for block in good if block in error.blocks]
            report = _take_in(services, [block for block in good if block not in error.blocks])
        else:
            report = _one_by_one(services, good, error)
    for block, reason in bad:
        _quarantine(services, block, reason)
        report["refused"] += 1
    return report


def _sorted_out(blocks: Sequence[Block]) -> tuple[list[Block], list[tuple[Block, str]]]:
    """The blocks that a reader will be able to decode, and the others with the reason why not."""
    good, bad = [], []
    for block in blocks:
        try:
            block.check()
            good.append(block)
        except InvalidBlock as problem:
            bad.append((block, str(problem)))
    return good, bad


def _store(services: Services, blocks: Sequence[Block]) -> dict[str, int]:
    with services.throttle.permits() as permits, services.database.begin() as connection:
        printing = printing_of(connection, {block.run_id for block in blocks})
        new = _append(services, connection, [block for block in blocks if block.run_id in printing])
        proofs = {block.fence for block in new if printing[block.run_id].out_of_process_liveness}
        refreshed = refresh(connection, permits, proofs, Proof.OUTPUT)
        late = [block.key for block in new if block.attempt < printing[block.run_id].live_from]
        suspected = note_late_output(connection, late)
    for adapter in suspected:
        metrics.SUSPECTED_FALSE_REAPS.labels(adapter).inc()
    services.live.publish(new)
    unknown = [block for block in blocks if block.run_id not in printing]
    metrics.CHUNKS.labels("new").inc(_count(new))
    metrics.CHUNKS.labels("repeated").inc(_count(blocks) - _count(unknown) - _count(new))
    for block in unknown:
        _quarantine(services, block, "there is no such run")
    return {
        "chunks": _count(blocks),
        "new": _count(new),
        "refreshed": len(refreshed),
        "refused": len(unknown),
    }


class _Refused(Exception):
    """Raised when the store fails because of what is in a block: trying again would change nothing. Quotes none of it.

    `blocks` are those at fault, where that is known: the others can be stored together.
    """

    def __init__(self, reason: str, blocks: frozenset[Block] = frozenset()) -> None:
        super().__init__(reason)
        self.blocks = blocks


def _append(services: Services, connection: Connection, blocks: Sequence[Block]) -> list[Block]:
    try:
        return services.logs.append(connection, blocks)
    except TooScattered as problem:
        raise _Refused(str(problem), problem.blocks) from None
    except Exception as error:
        if fault_of(error) is not Fault.CONTENT:
            raise
        raise _Refused(f"the database refused it ({type(getattr(error, 'orig', error)).__name__})") from None


def _one_by_one(services: Services, blocks: Sequence[Block], error: Exception) -> dict[str, int]:
    """Find the block that made the store fail, and store the others. It is quarantined where its content is at fault.

    Where we are at fault, or another transaction holds its log, its error is raised once the others are stored.
    """
    if len(blocks) < 2:
        if not isinstance(error, _Refused):
            raise error
        _quarantine(services, blocks[0], str(error))
        return {"chunks": _count(blocks), "new": 0, "refreshed": 0, "refused": 1}
    reports, failed = [], dict[LogKey, Exception]()
    for block in blocks:
        if block.key in failed and is_row_held(failed[block.key]):
            continue  # Every further block of this log would wait as long.
        try:
            reports.append(_take_in(services, [block]))
        except Exception as failure:
            if is_unfit(failure) and not is_row_held(failure):
                raise
            failed[block.key] = failure
    if failed:
        raise next(iter(failed.values()))
    return {name: sum(report[name] for report in reports) for name in reports[0]}


def _quarantine(services: Services, block: Block, reason: str) -> None:
    logger.error("%s cannot be stored: %s. It is kept in quarantine.", describe([block]), reason)
    metrics.BLOCKS_REFUSED.inc()
    with services.database.begin() as connection:
        services.logs.quarantine(connection, block, reason)


def _count(blocks: Iterable[Block]) -> int:
    return sum(block.count for block in blocks)


def publish(blocks: Sequence[Block]) -> None:
    """Send one message with these blocks; raises when the broker does not take it."""
    ingest_task.apply_async(
        args=[encode_message(blocks)],
        argsrepr=describe(blocks),
        serializer="msgpack",
    )
