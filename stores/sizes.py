"""How large the tables are, and how old the oldest row of each: what tells whether they have an end."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text

from reprieve.models.rows import Row
from reprieve.stores.database import Database

#: The tables whose rows are of runs, by the column that has the run's id, which begins with the time.
OF_RUNS = {
    name: "id" if name == "runs" else "run_id"
    for name, table in Row.metadata.tables.items()
    if name == "runs" or "run_id" in table.primary_key.columns or name == "run_events"
}

# bytes: of each table with its indexes and what is stored beside it; of one that has partitions, theirs.
BYTES = text("""
SELECT c.relname AS table, pg_total_relation_size(c.oid) + coalesce((
    SELECT CAST(sum(pg_total_relation_size(t.relid)) AS bigint) FROM pg_partition_tree(c.oid) t WHERE t.isleaf), 0
) AS bytes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relname = ANY(:names)
""")

# oldest: the first run of a table. After a retention that has removed many, what was before that is dead, and is not
# read again (`stores.retention`).
OLDEST = """
(SELECT CAST('{table}' AS text) AS table, {column} AS run_id FROM {table}
 WHERE {column} >= coalesce((SELECT begin_at FROM retention), CAST(:zero AS uuid)) ORDER BY {column} LIMIT 1)
"""
OLDEST_OF_ALL = text(" UNION ALL ".join(OLDEST.format(table=name, column=column) for name, column in OF_RUNS.items()))


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table; `oldest` is the time at which the run of its first row was asked for."""

    table: str
    bytes: int
    oldest: datetime | None


class Sizes:
    """The tables, as PostgreSQL says. It counts no row for that."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tables(self) -> list[TableSize]:
        """The largest first."""
        rows = self._database.run(BYTES, {"names": [*Row.metadata.tables]})
        found = self._database.run(OLDEST_OF_ALL, {"zero": UUID(int=0)})
        oldest = {row.table: _time_of(row.run_id) for row in found}
        sizes = [TableSize(row.table, row.bytes, oldest.get(row.table)) for row in rows]
        return sorted(sizes, key=lambda one: one.bytes, reverse=True)


def _time_of(run_id: UUID) -> datetime | None:
    """The time with which an id of version 7 begins; None of another, which somebody else has made."""
    return datetime.fromtimestamp((run_id.int >> 80) / 1000, UTC) if run_id.version == 7 else None
