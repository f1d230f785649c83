"""The queue: which waiting runs a worker may start, in which order, and no more of a lane than its rule allows.

A lane with a limit is claimed from under a lock, one worker at a time: what is counted is then what is. Who does not
get the lock passes the lane over. All others are claimed from without one.
"""

from reprieve.stores.runs.conditions import CLAIMABLE

#: Of the lanes without a limit, so many times as many runs are looked at as there is room for: other workers may be
#: claiming the first of them just now.
LOOKED_AT = 4

# The lanes in which runs wait, a step in the index for each; the last of these rows is NULL.
_WAITING = """
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


# What is under way in a lane: its running runs, and the work of others that is not confirmed gone yet.
UNDER_WAY = """
(SELECT count(*) FROM (SELECT FROM runs u WHERE u.status = 'running' AND u.lane = w.lane LIMIT w.at_once) u)
+ (SELECT count(*) FROM run_attempts a JOIN runs o ON o.id = a.run_id
   WHERE a.termination = 'owed' AND o.lane = w.lane)"""

# open: the lanes that this worker serves and that are not paused. `room` is how many of their runs may begin, NULL for
# any number.
_OPEN = f"""
served AS MATERIALIZED (
    SELECT w.lane, l.pattern, l.at_once FROM waiting w LEFT JOIN LATERAL ({rule_of("w.lane")}) l ON true
    WHERE w.lane IS NOT NULL AND l.paused_at IS NULL
      AND (CAST(:lanes AS text[]) IS NULL
           OR EXISTS (SELECT FROM unnest(CAST(:lanes AS text[])) AS s (pattern) WHERE {fits("s.pattern", "w.lane")}))
), counted AS MATERIALIZED (
    SELECT w.*, CASE WHEN w.at_once IS NOT NULL THEN {UNDER_WAY} END AS under_way FROM served w
), open AS MATERIALIZED (
    SELECT lane, pattern, coalesce(under_way, 0) AS under_way, at_once - under_way AS room
    FROM counted WHERE at_once IS NULL OR at_once > under_way
)"""  # noqa: S608 - our own text

# lock: those of the lanes with a limit, and room for one more, that no other worker is claiming from.
LOCK = f"""
WITH RECURSIVE {_WAITING}, {_OPEN}
SELECT lane FROM open
WHERE room IS NOT NULL
  AND pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.' || lane, {0x5265_7072_0002}))
"""  # noqa: S608 - our own text

# chosen: what may begin, as many of each group of adapters as there is room for. Within a lane by priority, then by
# age; the lanes of one pattern take turns, and go first where the fewest are under way. A pattern's turn comes by the
# age of its runs, whichever of its lanes has it, so that neither it nor others are kept waiting.
CHOSEN = f"""
rooms AS MATERIALIZED (
    SELECT number, adapters, runs FROM ROWS FROM (
        jsonb_to_recordset(CAST(:rooms AS jsonb)) AS (adapters text[], runs int)) WITH ORDINALITY
        AS g (adapters, runs, number)
), {_WAITING}, {_OPEN}, found AS MATERIALIZED (
    SELECT g.number, q.id, CASE WHEN o.pattern LIKE '%*' THEN o.pattern ELSE o.lane END AS family, o.room, o.under_way,
           row_number() OVER (PARTITION BY o.lane ORDER BY q.priority DESC, q.id) AS place
    FROM rooms g CROSS JOIN open o CROSS JOIN LATERAL unnest(g.adapters) AS n (adapter)
    CROSS JOIN LATERAL (
        SELECT r.id, r.priority FROM runs r
        WHERE r.not_before IS NULL AND r.lane = o.lane AND r.adapter = n.adapter
          AND {CLAIMABLE} AND r.attempt < r.max_attempts
        ORDER BY r.not_before, r.lane, r.adapter, r.priority DESC, r.id
        LIMIT least(o.room, {LOOKED_AT} * g.runs)) q
    WHERE o.room IS NULL OR o.lane = ANY(CAST(:held AS text[]))
), fitting AS MATERIALIZED (
    SELECT number, id, family,
           row_number() OVER (PARTITION BY number, family ORDER BY under_way + place, id) AS turn,
           row_number() OVER (PARTITION BY number, family ORDER BY id) AS by_age
    FROM found WHERE (place <= room) IS NOT FALSE
), chosen AS MATERIALIZED (
    SELECT c.id FROM rooms g CROSS JOIN LATERAL (
        SELECT r.id FROM fitting t JOIN fitting a ON (a.number, a.family, a.by_age) = (t.number, t.family, t.turn)
        JOIN runs r ON r.id = t.id
        WHERE t.number = g.number AND {CLAIMABLE} AND r.attempt < r.max_attempts
        ORDER BY a.id LIMIT g.runs FOR NO KEY UPDATE OF r SKIP LOCKED) c
)"""  # noqa: S608 - our own text
