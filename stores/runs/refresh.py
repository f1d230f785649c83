"""The refresh: proof of life is written to `runs.updated_at`. The throttle before it is `stores/throttle.py`."""

from collections.abc import Iterable

from sqlalchemy import Connection, text

from reprieve.models.status import Proof
from reprieve.models.work import Fence
from reprieve.stores.arrays import fence_arrays

# refresh: proof of life. A row that somebody else is writing just now is skipped: a stalled transaction on one run
# must not cost the others their proof, and two bulk refreshes cannot deadlock.
REFRESH = text("""
WITH live AS (
    SELECT r.id FROM runs r
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch) ON t.id = r.id
    WHERE r.epoch = t.epoch AND r.status = 'running'
    FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE runs r SET updated_at = clock_timestamp(), last_proof = :proof
FROM live WHERE r.id = live.id
RETURNING r.id, r.epoch
""")


def write_proof(connection: Connection, fences: Iterable[Fence], proof: Proof) -> set[Fence]:
    """Write a proof of life for the runs that these fences still follow; returns the fences it applied to."""
    parameters = fence_arrays(fences)
    if not parameters["ids"]:
        return set()
    rows = connection.execute(REFRESH, parameters | {"proof": proof.value})
    return {Fence(row.id, row.epoch) for row in rows}
