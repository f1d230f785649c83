"""The queue: which waiting runs a worker may start, in which order, and no more of a lane than its rule allows.

Lanes without a limit need no more than an order: what is urgent first, then what was asked for first. As long as runs
wait in lanes that have a limit, all lanes are claimed from by the statement that counts (`TO_THE_LIMIT`): from those
with a limit under a lock, one worker at a time, so that what is counted is what is. Who does not get the lock passes
the lane over.
"""

from reprieve.stores.runs.conditions import CLAIMABLE, DRAINED

#: Runs of the lanes without a limit that are looked at for the places `g.runs`: other workers may be claiming the first
#: of them just now, dozens of them where many runs were asked for at once.
LOOKED_AT = "greatest(2 * g.runs, 32)"

# The lanes in which runs wait, a step in the index for each; the last of these rows is NULL.
WAITING = """
waiting (lane) AS (
    (SELECT r.lane FROM runs r WHERE r.status = 'queued' AND r.not_before IS NULL
     ORDER BY r.not_before, r.lane LIMIT 1)
    UNION ALL
    SELECT (SELECT r.lane FROM runs r WHERE r.status = 'queued' AND r.not_before IS NULL AND r.lane > w.lane
            ORDER BY r.not_before, r.lane LIMIT 1)
    FROM waiting w WHERE w.lane IS NOT NULL
)"""


def fits(pattern: str, lane: str) -> str:
    """The condition that a lane fits a pattern: its name, or the beginning of names and an asterisk."""
    return f"({lane} = {pattern} OR {pattern} LIKE '%*' AND starts_with({lane}, left({pattern}, -1)))"


def rule_of(lane: str) -> str:
    """The one rule of a lane: of several that fit it the exact one, and else the longest."""
    return f"""
SELECT l.pattern, l.at_once, l.paused_at FROM lanes l WHERE {fits("l.pattern", lane)}
ORDER BY l.pattern = {lane} DESC, length(l.pattern) DESC LIMIT 1"""  # noqa: S608 - our own text


# served: the lanes that this worker serves, none of which is paused, with their limits; none where it is drained.
_SERVED = f"""
rooms AS MATERIALIZED (
    SELECT number, adapters, runs FROM ROWS FROM (
        jsonb_to_recordset(CAST(:rooms AS jsonb)) AS (adapters text[], runs int)) WITH ORDINALITY
        AS g (adapters, runs, number)
), {WAITING}, served AS MATERIALIZED (
    SELECT w.lane, l.pattern, l.at_once FROM waiting w LEFT JOIN LATERAL ({rule_of("w.lane")}) l ON true
    WHERE w.lane IS NOT NULL AND l.paused_at IS NULL
      AND NOT EXISTS (SELECT FROM workers w WHERE w.id = CAST(:worker_id AS uuid) AND {DRAINED})
      AND (CAST(:lanes AS text[]) IS NULL
           OR EXISTS (SELECT FROM unnest(CAST(:lanes AS text[])) AS s (pattern) WHERE {fits("s.pattern", "w.lane")}))
)"""  # noqa: S608 - our own text


def _next(lane: str, runs: str) -> str:
    """The runs of a lane and an adapter that may begin, in their order; not locked."""
    return f"""
SELECT r.id, r.priority FROM runs r
WHERE r.not_before IS NULL AND r.lane = {lane} AND r.adapter = n.adapter
  AND {CLAIMABLE} AND r.attempt < r.max_attempts
ORDER BY r.not_before, r.lane, r.adapter, r.priority DESC, r.id LIMIT {runs}"""  # noqa: S608 - our own text


# chosen: as many of each group of adapters as there is room for. What another worker is claiming is passed over.
WITHOUT_LIMIT = f"""
{_SERVED}, chosen AS MATERIALIZED (
    SELECT c.id FROM rooms g CROSS JOIN LATERAL (
        SELECT r.id FROM (
            SELECT q.* FROM served s CROSS JOIN unnest(g.adapters) AS n (adapter)
            CROSS JOIN LATERAL ({_next("s.lane", LOOKED_AT)}) q
            WHERE s.at_once IS NULL ORDER BY q.priority DESC, q.id LIMIT {LOOKED_AT}) f
        JOIN runs r ON r.id = f.id
        WHERE r.status = 'queued' ORDER BY f.priority DESC, f.id LIMIT g.runs FOR NO KEY UPDATE OF r SKIP LOCKED) c
)"""  # noqa: S608 - our own text

# open: the lanes in which more may begin. What is under way in a lane are its running runs, and the work of others that
# is not confirmed gone yet. `room` is how many may begin, NULL for any number.
_OPEN = f"""
{_SERVED}, counted AS MATERIALIZED (
    SELECT s.*, CASE WHEN s.at_once IS NOT NULL THEN
        (SELECT count(*) FROM (
            SELECT FROM runs u WHERE u.status = 'running' AND u.lane = s.lane LIMIT s.at_once) u)
        + (SELECT count(*) FROM run_attempts a JOIN runs o ON o.id = a.run_id
           WHERE a.termination = 'owed' AND o.lane = s.lane) END AS under_way
    FROM served s
), open AS MATERIALIZED (
    SELECT lane, pattern, coalesce(under_way, 0) AS under_way, at_once - under_way AS room
    FROM counted WHERE at_once IS NULL OR at_once > under_way
)"""  # noqa: S608 - our own text

# lock: those of the lanes with a limit, and room for one more, that no other worker is claiming from.
LOCK = f"""
WITH RECURSIVE {_OPEN}
SELECT lane FROM open
WHERE room IS NOT NULL
  AND pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.' || lane, {0x5265_7072_0002}))
"""  # noqa: S608 - our own text

# chosen, where limits count: within a lane what is urgent first, then what was asked for first. The lanes of one
# pattern take turns, and those go first in which the fewest are under way. A pattern's turn among the others comes by
# the age of its runs, whichever of its lanes it is that has it.
TO_THE_LIMIT = f"""
{_OPEN}, found AS MATERIALIZED (
    SELECT g.number, q.id, CASE WHEN o.pattern LIKE '%*' THEN o.pattern ELSE o.lane END AS family, o.room, o.under_way,
           row_number() OVER (PARTITION BY o.lane ORDER BY q.priority DESC, q.id) AS place
    FROM rooms g CROSS JOIN open o CROSS JOIN unnest(g.adapters) AS n (adapter)
    CROSS JOIN LATERAL ({_next("o.lane", f"least(o.room, {LOOKED_AT})")}) q
    WHERE o.room IS NULL OR o.lane = ANY(CAST(:held AS text[]))
), families AS MATERIALIZED (
    SELECT number, array_agg(id ORDER BY under_way + place, id) AS by_turn, array_agg(id ORDER BY id) AS by_age
    FROM found WHERE (place <= room) IS NOT FALSE GROUP BY number, family
), chosen AS MATERIALIZED (
    SELECT c.id FROM rooms g CROSS JOIN LATERAL (
        SELECT r.id FROM (
            SELECT t.* FROM families f CROSS JOIN LATERAL unnest(f.by_turn, f.by_age) AS t (id, age)
            WHERE f.number = g.number) f
        JOIN runs r ON r.id = f.id
        WHERE r.status = 'queued' ORDER BY f.age LIMIT g.runs FOR NO KEY UPDATE OF r SKIP LOCKED) c
)"""  # noqa: S608 - our own text
