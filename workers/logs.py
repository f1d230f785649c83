"""`logs.ingest`: a message of chunks becomes stored output, proof of life, and live events.

One transaction stores what is new and refreshes the runs that gave it; after the commit the live events go out. A
message that comes again, late, or cut differently changes nothing but what is missing. Only new output is proof of
life, and only for runs whose liveness is out of process: the row says which.
"""

import logging
from collections.abc import Sequence
from typing import Any

from celery.exceptions import Reject
from sqlalchemy.exc import InterfaceError, OperationalError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from models.chunks import Chunk, decode_batch, describe_batch, encode_batch
from models.status import Proof
from workers.app import app
from workers.bootstrap import Services, services
from workers.proof import refresh

logger = logging.getLogger(__name__)

#: What a database does that is away, restarting, or choosing a victim among deadlocked transactions.
TRANSIENT = (OperationalError, InterfaceError)
#: Seconds that a message is tried before it goes back to the broker; far below the visibility timeout.
TRY_FOR = 20


@app.task(name="logs.ingest", acks_late=True, acks_on_failure_or_timeout=True)  # type: ignore[untyped-decorator]
def ingest_task(message: dict[str, Any]) -> dict[str, int]:
    chunks = decode_batch(message)
    # Tried again here, not by a delayed message: a message's delay is counted by the clock of whoever takes it.
    retrying = Retrying(
        retry=retry_if_exception_type(TRANSIENT),
        wait=wait_exponential_jitter(multiplier=0.1, max=5),
        stop=stop_after_delay(TRY_FOR),
        before_sleep=lambda state: logger.error("Ingest failed (try %d), trying again.", state.attempt_number),
        reraise=True,
    )
    try:
        return retrying(ingest, services(), chunks)
    except TRANSIENT as error:
        logger.error("The database is away (%s): %s goes back.", type(error).__name__, describe_batch(chunks))
        raise Reject(type(error).__name__, requeue=True) from None


def ingest(services: Services, chunks: Sequence[Chunk]) -> dict[str, int]:
    """Store, refresh, publish. A failure releases the throttle keys it took, and surfaces."""
    with services.throttle.claims() as claims, services.database.begin() as connection:
        capability = services.runs.with_out_of_process_liveness(connection, {chunk.run_id for chunk in chunks})
        new = services.logs.append(connection, [chunk for chunk in chunks if chunk.run_id in capability])
        proofs = {chunk.token for chunk in new if capability[chunk.run_id]}
        refreshed = refresh(services, connection, claims, proofs, Proof.OUTPUT)
    services.live.publish(new)
    unknown = sum(chunk.run_id not in capability for chunk in chunks)
    if unknown:
        logger.error("%d chunks are of runs that do not exist.", unknown)
    return {"chunks": len(chunks), "new": len(new), "refreshed": len(refreshed), "unknown": unknown}


def publish(chunks: Sequence[Chunk]) -> None:
    """Send one message with these chunks; raises when the broker does not take it."""
    ingest_task.apply_async(
        args=[encode_batch(chunks)],
        argsrepr=describe_batch(chunks),
        serializer="msgpack",
    )
