"""What attempts used over their lives: one row for each, written anew as a whole, at most once a minute."""

import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.records import SampleList, SampleRecord
from reprieve.models.samples import Sample, Series
from reprieve.models.work import Fence
from reprieve.stores.arrays import fence_arrays
from reprieve.stores.database import Database

# write: the samples of attempts, of each as a whole, by their ages: no clock but the database's counts. A follower
# whose attempt another one has adopted writes nothing.
WRITE = text("""
INSERT INTO attempt_samples (run_id, attempt, every, at, cpu_seconds, memory, peak_memory)
SELECT a.run_id, a.attempt, s.every,
       ARRAY(SELECT statement_timestamp() - t.age * interval '1 s'
             FROM unnest(s.ages) WITH ORDINALITY AS t (age, place) ORDER BY t.place),
       s.cpu_seconds, s.memory, s.peak_memory
FROM jsonb_to_recordset(CAST(:samples AS jsonb)) AS s (
    run_id uuid, epoch bigint, every int, ages float[], cpu_seconds float[], memory bigint[], peak_memory bigint)
JOIN run_attempts a ON a.run_id = s.run_id AND a.epoch = s.epoch
ORDER BY a.run_id
ON CONFLICT (run_id, attempt) DO UPDATE
SET every = EXCLUDED.every, at = EXCLUDED.at, cpu_seconds = EXCLUDED.cpu_seconds, memory = EXCLUDED.memory,
    peak_memory = EXCLUDED.peak_memory
""")

# resume: what other workers have written of attempts that are followed on.
RESUME = text("""
SELECT a.run_id, a.epoch, s.every, s.cpu_seconds, s.memory, s.peak_memory,
       ARRAY(SELECT CAST(extract(epoch FROM clock_timestamp() - t.at) AS double precision)
             FROM unnest(s.at) WITH ORDINALITY AS t (at, place) ORDER BY t.place) AS ages
FROM unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch)
JOIN run_attempts a ON a.run_id = t.id AND a.epoch = t.epoch
JOIN attempt_samples s ON s.run_id = a.run_id AND s.attempt = a.attempt
""")

OF = text("SELECT at, cpu_seconds, memory FROM attempt_samples WHERE run_id = :run_id AND attempt = :attempt")


class SampleStore:
    """Samples in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, taken: Mapping[Fence, Series]) -> None:
        """Keep the samples of these attempts, whose moments are `time.monotonic`'s."""
        now = time.monotonic()
        said = [_said(fence, series, now) for fence, series in taken.items()]
        self._database.run(WRITE, {"samples": json.dumps(said)})

    def resume(self, fences: set[Fence]) -> dict[Fence, Series]:
        """What was kept of these attempts before; nothing where nothing was."""
        now = time.monotonic()
        return {
            Fence(row.run_id, row.epoch): Series.resumed(
                row.every,
                [
                    Sample(now - age, cpu, memory)
                    for age, cpu, memory in zip(row.ages, row.cpu_seconds, row.memory, strict=True)
                ],
                row.peak_memory,
            )
            for row in self._database.run(RESUME, fence_arrays(fences))
        }

    def of(self, run_id: UUID, attempt: int) -> SampleList:
        """The samples of an attempt; none where none were kept."""
        return SampleList(
            samples=[
                SampleRecord(at=at, cpu_seconds=cpu, memory_bytes=memory)
                for row in self._database.run(OF, {"run_id": run_id, "attempt": attempt})
                for at, cpu, memory in zip(row.at, row.cpu_seconds, row.memory, strict=True)
            ]
        )


def _said(fence: Fence, series: Series, now: float) -> dict[str, Any]:
    samples = list(series)
    return {
        "run_id": str(fence.run_id),
        "epoch": fence.epoch,
        "every": series.every,
        "ages": [round(now - one.at, 3) for one in samples],
        "cpu_seconds": [one.cpu_seconds for one in samples],
        "memory": [one.memory_bytes for one in samples],
        "peak_memory": series.peak_memory,
    }
