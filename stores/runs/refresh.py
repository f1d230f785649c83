"""The refresh: proof of life is written to `runs.updated_at`. The throttle before it is `stores/throttle.py`.

The same UPDATE carries when the run last gave output, and the longest silence of the attempt: neither costs a write.
"""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, text

from reprieve.models.status import Proof
from reprieve.models.work import Fence
from reprieve.stores.arrays import fence_arrays

# refresh: proof of life. A row that somebody else is writing just now is skipped: a stalled transaction on one run
# must not cost the others their proof, and two bulk refreshes cannot deadlock. Output that the row did not know of ends
# a quiet time; output that comes by two ways (its follower's word, the store) is of the later moment.
REFRESH = text("""
WITH live AS (
    SELECT r.id, clock_timestamp() - t.output_age * interval '1 s' AS output_at FROM runs r
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[]), CAST(:output_ages AS float[]))
        AS t (id, epoch, output_age) ON t.id = r.id
    WHERE r.epoch = t.epoch AND r.status = 'running'
    FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE runs r
SET updated_at = clock_timestamp(), last_proof = :proof,
    longest_silence = greatest(r.longest_silence, clock_timestamp() - r.updated_at),
    output_at = greatest(r.output_at, live.output_at),
    quiet_at = CASE WHEN live.output_at > coalesce(r.output_at, '-infinity') THEN NULL ELSE r.quiet_at END
FROM live WHERE r.id = live.id
RETURNING r.id, r.epoch
""")


def write_proof(
    connection: Connection, fences: Iterable[Fence], proof: Proof, output_ages: Mapping[Fence, float] | None = None
) -> set[Fence]:
    """Write a proof of life for the runs that these fences still follow; returns the fences it applied to.

    `output_ages`: for how many seconds those that gave output since the last refresh have given none. Where the proof
    is output, that is now.
    """
    ordered = sorted(set(fences))
    if not ordered:
        return set()
    ages = dict.fromkeys(ordered, 0.0) if proof is Proof.OUTPUT else output_ages or {}
    parameters = fence_arrays(ordered) | {"output_ages": [ages.get(fence) for fence in ordered]}
    rows = connection.execute(REFRESH, parameters | {"proof": proof.value})
    return {Fence(row.id, row.epoch) for row in rows}
