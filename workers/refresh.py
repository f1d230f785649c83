"""The refresh: proof of life reaches `runs.updated_at`, at most once per run and refresh interval.

    SET proof:{run_id} {owner} NX EX 60    who wins, refreshes         (stores/throttle.py)
    UPDATE runs SET updated_at = <database clock>
     WHERE id = … AND epoch = … AND status = 'running'                 (stores/runs/refresh.py)

A key whose UPDATE failed or matched nothing is released, and a failure surfaces to the caller.
"""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection

from reprieve.models.status import Proof
from reprieve.models.work import Fence
from reprieve.stores.runs.refresh import write_proof
from reprieve.stores.throttle import Permits
from reprieve.workers import metrics
from reprieve.workers.bootstrap import Services


def refresh(
    connection: Connection,
    permits: Permits,
    fences: Iterable[Fence],
    proof: Proof,
    output_ages: Mapping[Fence, float] | None = None,
) -> set[Fence]:
    """Refresh those of `fences` that are due, inside the caller's transaction; returns those it wrote.

    `output_ages` as `write_proof` takes them.
    """
    fences = set(fences)
    taken = permits.take(fences)
    try:
        refreshed = write_proof(connection, taken, proof, output_ages)
    except Exception:
        metrics.REFRESHES.labels(proof.value, "failed").inc(len(taken))
        raise
    permits.made(refreshed)
    for result, count in (
        ("written", len(refreshed)),
        ("throttled", len(fences) - len(taken)),
        ("void", len(taken) - len(refreshed)),
    ):
        metrics.REFRESHES.labels(proof.value, result).inc(count)
    return refreshed


def give_proof(
    services: Services, fences: Iterable[Fence], proof: Proof, output_ages: Mapping[Fence, float] | None = None
) -> set[Fence]:
    """The same at once, if there is anything to refresh: the way of keepalives and heartbeats."""
    fences = set(fences)
    if not fences:
        return set()
    with services.throttle.permits() as permits, services.database.at_once() as connection:
        return refresh(connection, permits, fences, proof, output_ages)
