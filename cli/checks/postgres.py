"""Checks of PostgreSQL: its version, its encryption, its tables, and what it promises of a commit."""

import time

from sqlalchemy import text

from reprieve.cli.checks import Found
from reprieve.models.health import READ_ONLY
from reprieve.models.text import span, volume
from reprieve.stores import tls
from reprieve.stores.migrate import current_revision, head_revision, is_current
from reprieve.stores.postgres_address import SERVER_OPTIONS
from reprieve.stores.urls import Url
from reprieve.workers.bootstrap import Services

#: The oldest that is known to do.
LEAST_POSTGRES = 15
#: Refreshes that are tried, each on a page of its own, and the share of HOT updates that there should be of them.
REFRESHES_TRIED = 100
LEAST_HOT = 0.9
#: Tables whose size is told.
TABLES_TOLD = 4
#: Seconds by which clocks may differ before a person reading times is misled. None of them decides anything.
CLOCK_TOLERANCE = 5.0

# refresh some: as the refresh does, of runs on different pages, since a page has room for so many. None is waited for.
REFRESH_SOME = text("""
UPDATE runs SET updated_at = clock_timestamp(), last_proof = 'probe' WHERE id IN (
    SELECT id FROM runs WHERE id IN (
        SELECT DISTINCT ON ((CAST(CAST(ctid AS text) AS point))[0]) id FROM runs WHERE status = 'running' LIMIT :limit)
    FOR NO KEY UPDATE SKIP LOCKED)
""")

# updated here: what this session has done that the server has not counted yet.
UPDATED_HERE = text("""
SELECT coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_hot_upd), 0)
FROM pg_stat_xact_user_tables WHERE relid = CAST('runs' AS regclass)
""")


def database(wired: Services) -> Found:
    began = time.monotonic()
    with wired.database.begin() as connection:
        number = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10000
    if number < LEAST_POSTGRES:
        return False, f"PostgreSQL {number} is older than {LEAST_POSTGRES}, the oldest that will do."
    if wired.database.is_read_only():
        return False, READ_ONLY
    return True, f"PostgreSQL {number} answers in {(time.monotonic() - began) * 1000:.0f} ms."


def encryption(wired: Services) -> Found:
    url = Url.parse(wired.settings.require_database_url())
    query = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    with wired.database.begin() as connection:
        over_tls = bool(connection.execute(query).scalar())
    mode = tls.postgres_mode(url)
    if tls.is_local_postgres(url):
        return True, "The database is reached within this machine."
    if mode is not None and mode not in tls.VERIFYING:
        return True, f"The database's certificate is not verified, as somebody chose (sslmode={mode})."
    if not over_tls:
        return False, (
            "The database has no TLS: whoever is in between can read and change all. Say ?sslmode=verify-full in its "
            "URL, or ?sslmode=disable where nobody is."
        )
    return True, "The connection to the database is encrypted, and its certificate verified."


def migrations(wired: Services) -> Found:
    with wired.database.begin() as connection:
        there, expected = current_revision(connection), head_revision()
    schema = wired.database.schema
    what = "The database" if schema is None else f"The schema {schema} of the database"
    if is_current(wired.database):
        if there == expected:
            return True, f"{what} is at revision {there}, as this version expects."
        return True, f"{what} is at revision {there}, of a newer version than this: an upgrade is under way."
    return False, f"{what} is at revision {there or 'none'}, not {expected}: run `reprieve migrate`."


def timeouts(wired: Services) -> Found:
    query = text("SELECT name, reset_val FROM pg_settings WHERE name = ANY(:names)")
    with wired.database.begin() as connection:
        there = {row.name: row.reset_val for row in connection.execute(query, {"names": list(SERVER_OPTIONS)})}
    missing = [name for name in SERVER_OPTIONS if there.get(name) == "0"]
    if missing:
        settings = "; ".join(f"ALTER ROLE … SET {name} = {SERVER_OPTIONS[name]}" for name in missing)
        return False, (
            "A pooler keeps our timeouts from the server, so a hung statement, or a host that was cut off, holds up "
            f"others: {settings}."
        )
    return True, "The server ends statements of ours that hang, and sessions of hosts that are gone."


def hot_updates(wired: Services) -> Found:
    """Refresh some runs, look how, and undo it: what the server counts has changes of status in it, which are none."""
    with wired.database.begin() as connection:
        before = connection.execute(UPDATED_HERE).one()
        connection.execute(REFRESH_SOME, {"limit": REFRESHES_TRIED})
        updates, hot = (
            after - so_far for after, so_far in zip(connection.execute(UPDATED_HERE).one(), before, strict=True)
        )
        connection.rollback()
    if not updates:
        return True, "No run is running whose refresh could be tried."
    told = f"{hot} of {updates} refreshes that were tried, and undone, were HOT"
    if hot / updates < LEAST_HOT:
        return False, f"{told}: is there an index on updated_at or last_proof, or is autovacuum held up?"
    return True, f"{told}."


def standbys(wired: Services) -> Found:
    # A plain user sees how many there are, though nothing else of them.
    query = text(
        "SELECT (SELECT count(*) FROM pg_stat_replication) AS standbys, "
        "current_setting('synchronous_standby_names') AS names, current_setting('synchronous_commit') AS waits_for"
    )
    with wired.database.begin() as connection:
        row = connection.execute(query).one()
    return commits_are_safe(row.standbys, row.names, row.waits_for)


def commits_are_safe(standbys: int, names: str, waits_for: str) -> Found:
    """Whether a commit outlives a fail-over: `names` and `waits_for` are PostgreSQL's settings for synchronous ones."""
    if not standbys:
        return True, "No standby follows the database, as far as it says: none can take over without the last commits."
    if not names.strip() or waits_for in ("off", "local"):
        return False, (
            f"Commits wait for none of {standbys} standbys, so one that takes over may lack the last of them. Workers "
            "send again what they still hold of their output; ends, claims and new runs may be lost. Set "
            "synchronous_standby_names, or accept it (docs/promises.md)."
        )
    return True, f"Commits wait for a standby (synchronous_standby_names = {names}, of {standbys} that follow)."


def clocks(wired: Services) -> Found:
    apart = abs(wired.database.now().timestamp() - time.time())
    if apart > CLOCK_TOLERANCE:
        return False, (
            f"This machine's clock and the database's are {apart:.0f} s apart. No decision depends on it, but times of "
            "log lines do: have both be set by NTP."
        )
    return True, f"This machine's clock and the database's are {apart:.1f} s apart."


def tables(wired: Services) -> Found:
    """How large the tables are, the largest first, and how old the oldest run is."""
    sizes = wired.sizes.tables()
    largest = ", ".join(f"{one.table} {volume(one.bytes)}" for one in sizes[:TABLES_TOLD])
    oldest = min((one.oldest for one in sizes if one.table == "runs" and one.oldest), default=None)
    age = f"; the oldest run was asked for {span(wired.database.now() - oldest)} ago" if oldest else ""
    return True, f"The tables have {volume(sum(one.bytes for one in sizes))}: {largest}{age}."


def retention(wired: Services) -> Found:
    """Whether ended runs are removed as they should be, by whichever worker of the archive does it."""
    state, now = wired.retention.state(), wired.database.now()
    if state is None:
        return True, "Ended runs stay for ever: REPRIEVE_RUN_RETENTION_DAYS is not set."
    reasons = state.complaints(now)
    return (False, " ".join(reasons)) if reasons else (True, state.summary(now))
