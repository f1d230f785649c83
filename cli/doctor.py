"""`reprieve doctor`: what is set up, what is not, and what to do, a line each.

A check looks at one thing and says one sentence. One that raises has found something wrong, and costs no other.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points, version

from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import RedisError
from rich.text import Text
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from reprieve.adapters.registry import ENTRY_POINT_GROUP, adapter_classes
from reprieve.api.peers import is_loopback
from reprieve.cli.render import say_json, terminal
from reprieve.cli.roles import CONCURRENCY
from reprieve.models.errors import ReprieveError
from reprieve.models.faults import is_unfit
from reprieve.models.health import READ_ONLY, ailments, refused
from reprieve.models.text import shown
from reprieve.stores import tls
from reprieve.stores.cache import connect
from reprieve.stores.database import SERVER_OPTIONS
from reprieve.stores.migrate import current_revision, head_revision, is_current
from reprieve.stores.objects import folder_of
from reprieve.stores.tokens import own_token
from reprieve.stores.urls import Url
from reprieve.workers.app import QUEUES, app
from reprieve.workers.bootstrap import Services, fleet_services, services
from reprieve.workers.broker import to_ask
from reprieve.workers.files import files_for
from reprieve.workers.settings import host_and_port, unknown_names

#: The oldest PostgreSQL and Redis that are known to do.
LEAST_POSTGRES = 15
LEAST_REDIS = (6, 2)
#: Seconds by which clocks may differ before a person reading times is misled. None of them decides anything.
CLOCK_TOLERANCE = 5.0
#: Refreshes that are tried, each on a page of its own, and the share of HOT updates that there should be of them.
REFRESHES_TRIED = 100
LEAST_HOT = 0.9
#: Bytes that should be free beside a full spool.
LEAST_FREE = 1024**3
#: Seconds that workers get to say what they consume.
ANSWER_TIME = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: whether that is well, and a sentence, which says what to do where it is not."""

    what: str
    well: bool
    told: str


Found = tuple[bool, str]
#: Whatever a server may say of what a check asks it, beside that it is away.
EXPECTED = (DBAPIError, RedisError, KombuError, OSError, ReprieveError)
Check = Callable[[Services], Found]


def database(wired: Services) -> Found:
    began = time.monotonic()
    with wired.database.begin() as connection:
        number = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10000
    if number < LEAST_POSTGRES:
        return False, f"PostgreSQL {number} is older than {LEAST_POSTGRES}, the oldest that will do."
    if wired.database.is_read_only():
        return False, READ_ONLY
    return True, f"PostgreSQL {number} answers in {(time.monotonic() - began) * 1000:.0f} ms."


def settings(_: Services) -> Found:
    if unknown := unknown_names():
        return False, f"Nothing reads {', '.join(unknown)}: is it misspelt, or meant for another version?"
    return True, "Every variable with our prefix is a setting."


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
    if there == expected:
        return True, f"The database is at revision {there}, as this version expects."
    if is_current(wired.database):
        return True, f"The database is at revision {there}, of a newer version than this: an upgrade is under way."
    return False, f"The database is at revision {there or 'none'}, not {expected}: run `reprieve migrate`."


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


def archive(wired: Services) -> Found:
    """Whether the archive takes, gives and removes an object, for this user on this machine."""
    folder = folder_of(wired.settings.archive_url)
    if folder is not None and not folder.exists():
        return True, f"The folder {folder} of the log archive is not there yet: the first log that is closed makes it."
    wired.archives.objects.probe()
    return True, f"An object was written, read, listed and removed in {wired.settings.archive_url}."


def archiving(wired: Services) -> Found:
    """Whether the workers are refused what they ask of the archive, wherever they are."""
    reasons = refused(wired.archives.refusals())
    return (False, " ".join(reasons)) if reasons else (True, "The workers are refused nothing by the log archive.")


def redis(wired: Services) -> Found:
    with connect(wired.settings.require_redis_url()) as client:
        return _redis(client)


def _redis(client: Redis) -> Found:
    told = client.info()
    number = tuple(int(part) for part in str(told["redis_version"]).split(".")[:2])
    if number < LEAST_REDIS:
        return False, f"Redis {told['redis_version']} is older than 6.2, the oldest that will do."
    if told["maxmemory_policy"] != "noeviction":
        return False, (
            f"Redis may evict what it likes (maxmemory-policy {told['maxmemory_policy']}), messages too: "
            "set it to noeviction."
        )
    if not told["aof_enabled"]:
        return (
            False,
            "Redis keeps no append-only file, so what is queued is lost when it restarts: set appendonly yes.",
        )
    return True, f"Redis {told['redis_version']} answers, evicts nothing and keeps an append-only file."


def broker(_: Services) -> Found:
    with to_ask(app) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        return True, f"The broker answers ({connection.transport_cls})."


def queues(_: Services) -> Found:
    with to_ask(app) as connection:
        answers = app.control.inspect(timeout=ANSWER_TIME, connection=connection).active_queues() or {}
    consumed = {queue["name"] for of_worker in answers.values() for queue in of_worker}
    missing = [queue for queue in QUEUES if queue not in consumed]
    if missing:
        return (
            False,
            f"No worker that answers consumes {' or '.join(missing)}: start one (docker-compose.yml has the commands).",
        )
    return True, f"{len(answers)} workers consume all of {', '.join(QUEUES)}."


def reaper(wired: Services) -> Found:
    reasons = ailments(wired.sweeps.pulse(), wired.timing)
    return (False, " ".join(reasons)) if reasons else (True, "Sweeps are made, and canaries come back.")


def hosts(wired: Services) -> Found:
    reasons = wired.nodes.complaints(wired.timing)
    return (
        (False, " ".join(reasons)) if reasons else (True, "Each name has one holder, and each host that owes is seen.")
    )


def clocks(wired: Services) -> Found:
    apart = abs(wired.database.now().timestamp() - time.time())
    if apart > CLOCK_TOLERANCE:
        return False, (
            f"This machine's clock and the database's are {apart:.0f} s apart. No decision depends on it, but times of "
            "log lines do: have both be set by NTP."
        )
    return True, f"This machine's clock and the database's are {apart:.1f} s apart."


def space(wired: Services) -> Found:
    settings = wired.settings
    folders = {"the spool": (settings.spool_dir, settings.spool_bytes + LEAST_FREE)}
    if (folder := folder_of(settings.archive_url)) is not None:
        folders["the archive"] = (folder, LEAST_FREE)
    told = []
    for name, (wanted_in, wanted) in folders.items():
        there = next(path for path in (wanted_in, *wanted_in.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < wanted:
            return False, f"{name.capitalize()} has {_gib(free)} left in {there}; {_gib(wanted)} should be free."
        told.append(f"{_gib(free)} for {name}")
    return True, f"There is room: {', '.join(told)}."


def open_files(_: Services) -> Found:
    files = files_for(CONCURRENCY)
    if files.shortage is not None:
        return False, f"Of a worker of runs that is started like this: {files.shortage}"
    return True, f"A process of this user may open {files.raised:,} files, enough for {CONCURRENCY} runs at once."


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"


def plug_ins(_: Services) -> Found:
    broken = {one.name for one in entry_points(group=ENTRY_POINT_GROUP)} - adapter_classes().keys()
    if broken:
        return False, f"Adapters that cannot be used here: {', '.join(sorted(broken))}; a worker's log says why."
    return True, f"Adapters: {', '.join(sorted(adapter_classes()))}."


def flower(wired: Services) -> Found:
    if wired.settings.flower_password is None:
        return False, "Flower has no password here: set REPRIEVE_FLOWER_PASSWORD, or it does not start."
    return True, "Flower asks for a password."


def http_api(wired: Services) -> Found:
    settings, address = wired.settings, wired.settings.api_address
    local = is_loopback(host_and_port(address)[0])
    if settings.api_open:
        if not local:
            return False, f"The HTTP API would not start at {address}: REPRIEVE_API_OPEN is for loopback only."
        return True, f"The HTTP API ({address}) asks for no token of this user, as REPRIEVE_API_OPEN says."
    if settings.api_tokens or own_token(settings.data_dir) or wired.tokens.any_for_api():
        return True, f"The HTTP API ({address}) asks for a token."
    if local:
        return True, f"The HTTP API ({address}) makes a token when it starts: there is none."
    return False, f"The HTTP API would not start at {address}: there is no token. `reprieve token create` makes one."


def versions(_: Services) -> Found:
    return True, ", ".join(f"{name} {version(name)}" for name in ("reprieve", "celery", "kombu", "redis", "sqlalchemy"))


CHECKS: tuple[Check, ...] = (
    settings,
    database,
    encryption,
    migrations,
    timeouts,
    hot_updates,
    standbys,
    archive,
    archiving,
    redis,
    broker,
    queues,
    reaper,
    hosts,
    clocks,
    space,
    open_files,
    plug_ins,
    flower,
    http_api,
    versions,
)


#: What can be looked at only where there is a database: one that is away is told once.
OF_DATABASE = frozenset(
    {encryption, migrations, timeouts, hot_updates, standbys, archiving, reaper, hosts, clocks, http_api}
)


def findings(wired: Services) -> Iterator[Finding]:
    """What each check found, as soon as it has."""
    away = False
    for check in CHECKS:
        if away and check in OF_DATABASE:
            continue
        name = check.__name__.replace("_", " ")
        try:
            well, told = check(wired)
        except Exception as error:
            if not (is_unfit(error) or isinstance(error, EXPECTED)):
                raise
            away = away or check is database
            well, told = (
                False,
                _of_database(error) if check is database else f"It could not be looked at: {_cause(error)}",
            )
        yield Finding(name, well, told)


def _of_database(error: Exception) -> str:
    """What a database that cannot be reached says, with what to do."""
    said = _cause(error)
    missing = "does not exist" in said and "database" in said
    what_to_do = (
        "Make it (createdb), or have REPRIEVE_DATABASE_URL name another one; then `reprieve migrate`."
        if missing
        else "Is it running, and does REPRIEVE_DATABASE_URL say where, and as whom?"
    )
    return f"The database cannot be used: {said}. {what_to_do} What is in it was not looked at."


def _wired() -> Services:
    """At the time of the fleet, where its database says what that is."""
    try:
        return fleet_services()
    except EXPECTED:
        return services()


def _cause(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return next(iter(str(cause).strip().splitlines()), type(error).__name__).rstrip(".")


def examine(*, as_json: bool) -> int:
    """Print what is found; 1 if something is wrong."""
    found = []
    console = terminal()
    for finding in findings(_wired()):
        found.append(finding)
        if not as_json:
            mark = ("ok  ", "green") if finding.well else ("BAD ", "red")
            console.print(Text.assemble(mark, f" {finding.what:<12} ", shown(finding.told)), soft_wrap=True)
    if as_json:
        say_json([asdict(finding) for finding in found])
    return 0 if all(finding.well for finding in found) else 1
