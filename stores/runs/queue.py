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
#: Runs of a lane with a limit that may take the places of others there, which a transaction that stands still holds.
SPARE = 10

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


# patterns: the rules for the beginnings of names, which are looked through for each lane; an index finds one by name.
PATTERNS = """
patterns AS MATERIALIZED (SELECT l.pattern, l.at_once, l.paused_at FROM lanes l WHERE l.pattern LIKE '%*')"""


def rule_of(lane: str) -> str:
    """The one rule of a lane: of several that fit it the exact one, and else the longest. After `PATTERNS`."""
    return f"""
SELECT l.* FROM (
    SELECT l.pattern, l.at_once, l.paused_at FROM lanes l WHERE l.pattern = {lane}
    UNION ALL SELECT p.* FROM patterns p WHERE starts_with({lane}, left(p.pattern, -1))) l
ORDER BY l.pattern = {lane} DESC, length(l.pattern) DESC LIMIT 1"""  # noqa: S608 - our own text


# served: the lanes that this worker serves, none of which is paused, with their limits; none where it is drained.
_SERVED = f"""
rooms AS MATERIALIZED (
    SELECT number, adapters, runs FROM ROWS FROM (
        jsonb_to_recordset(CAST(:rooms AS jsonb)) AS (adapters text[], runs int)) WITH ORDINALITY
        AS g (adapters, runs, number)
), {PATTERNS}, {WAITING}, served AS MATERIALIZED (
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


def _turns(lanes: str, runs: str) -> str:
    """turns: what may begin in these of the `served` lanes, up to so many runs of each, with a place in the order.

    open: those in which more may begin. What is under way in a lane are its running runs, and the work of others that
    is not confirmed gone yet. `room` is how many may begin, NULL for any number.

    Within a lane what is urgent goes first, then what was asked for first. The lanes of one pattern take turns, and
    those go first in which the fewest are under way. A pattern's turn among the others comes by the age of its runs,
    whichever of its lanes it is that has it.
    """
    return f"""
ending AS MATERIALIZED (
    SELECT o.lane, count(*) AS runs FROM run_attempts a JOIN runs o ON o.id = a.run_id
    WHERE a.termination = 'owed' GROUP BY o.lane
), counted AS MATERIALIZED (
    SELECT s.*, CASE WHEN s.at_once IS NOT NULL THEN
        (SELECT count(*) FROM (
            SELECT FROM runs u WHERE u.status = 'running' AND u.lane = s.lane LIMIT s.at_once) u)
        + coalesce(e.runs, 0) END AS under_way
    FROM served s LEFT JOIN ending e ON e.lane = s.lane WHERE {lanes}
), open AS MATERIALIZED (
    SELECT lane, pattern, coalesce(under_way, 0) AS under_way, at_once - under_way AS room
    FROM counted WHERE at_once IS NULL OR at_once > under_way
), found AS MATERIALIZED (
    SELECT g.number, q.id, o.lane, CASE WHEN o.pattern LIKE '%*' THEN o.pattern ELSE o.lane END AS family, o.room,
           o.under_way, row_number() OVER (PARTITION BY o.lane ORDER BY q.priority DESC, q.id) AS place
    FROM rooms g CROSS JOIN open o CROSS JOIN unnest(g.adapters) AS n (adapter)
    CROSS JOIN LATERAL ({_next("o.lane", runs)}) q
), families AS MATERIALIZED (
    SELECT number, array_agg(id ORDER BY under_way + place, id) AS by_turn, array_agg(id ORDER BY id) AS by_age
    FROM found WHERE (place <= room) IS NOT FALSE GROUP BY number, family
), turns AS MATERIALIZED (
    -- By itself: a row that is sorted to be locked would carry all of its family otherwise.
    SELECT d.number, d.id, d.lane, t.age FROM families f CROSS JOIN LATERAL unnest(f.by_turn, f.by_age) AS t (id, age)
    JOIN found d ON d.number = f.number AND d.id = t.id
)"""  # noqa: S608 - our own text


# lock: of the lanes with a limit from which something may begin here, those whose turn comes first, and that no other
# worker is claiming from: a few more than there are places, since PostgreSQL has room for so many locks only. `open` is
# how many there are.
LOCK = f"""
WITH RECURSIVE {_SERVED}, {_turns("s.at_once IS NOT NULL", "1")}, wanted AS MATERIALIZED (
    SELECT lane, min(turn) AS turn
    FROM (SELECT lane, row_number() OVER (PARTITION BY number ORDER BY age) AS turn FROM turns) t GROUP BY lane
)
SELECT (SELECT count(*) FROM wanted) AS open, ARRAY(
    SELECT w.lane FROM (SELECT lane FROM wanted ORDER BY turn, lane OFFSET 0) w
    WHERE pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.' || w.lane, {0x5265_7072_0002}))
    LIMIT (SELECT sum({LOOKED_AT}) FROM rooms g)) AS held
"""  # noqa: S608 - our own text

_LOCKED = "s.at_once IS NULL OR s.lane = ANY(CAST(:held AS text[]))"

# chosen, where limits count: of the lanes that are locked, and of those without a limit. What somebody else holds is
# passed over; in a lane with a limit, the place of each such run is taken by one that comes after it (`spare`).
TO_THE_LIMIT = f"""
{_SERVED}, {_turns(_LOCKED, f"least(o.room + {SPARE}, {LOOKED_AT})")}, first AS MATERIALIZED (
    SELECT g.number, c.* FROM rooms g CROSS JOIN LATERAL (
        SELECT r.id, t.lane FROM turns t JOIN runs r ON r.id = t.id
        WHERE t.number = g.number AND r.status = 'queued'
        ORDER BY t.age LIMIT g.runs FOR NO KEY UPDATE OF r SKIP LOCKED) c
), left_over AS MATERIALIZED (
    SELECT g.number, g.runs - (SELECT count(*) FROM first f WHERE f.number = g.number) AS runs FROM rooms g
), missed AS MATERIALIZED (
    SELECT t.lane, count(*) AS runs FROM turns t JOIN left_over l ON l.number = t.number AND l.runs > 0
    WHERE NOT EXISTS (SELECT FROM first f WHERE f.id = t.id) GROUP BY t.lane
), spare AS MATERIALIZED (
    SELECT c.* FROM left_over l CROSS JOIN LATERAL (
        SELECT r.id, d.lane, d.place, m.runs FROM found d JOIN missed m ON m.lane = d.lane JOIN runs r ON r.id = d.id
        WHERE d.number = l.number AND d.place > d.room AND r.status = 'queued'
        ORDER BY d.place, d.id LIMIT l.runs FOR NO KEY UPDATE OF r SKIP LOCKED) c
), chosen AS MATERIALIZED (
    SELECT id FROM first
    UNION ALL
    SELECT id FROM (SELECT id, runs, row_number() OVER (PARTITION BY lane ORDER BY place) AS number FROM spare) s
    WHERE number <= runs
)"""  # noqa: S608 - our own text
