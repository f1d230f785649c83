"""`reprieve doctor`: what is set up, what is not, and what to do, a line each.

A check looks at one thing and says one sentence. One that raises has found something wrong, and costs no other.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import RedisError
from rich.text import Text
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from adapters.registry import ENTRY_POINT_GROUP, adapter_classes
from api.peers import is_loopback
from cli.render import say_json, terminal
from cli.roles import CONCURRENCY
from models.errors import ReprieveError
from models.faults import is_unfit
from models.health import READ_ONLY, ailments
from models.text import shown
from stores.cache import connect
from stores.database import SERVER_OPTIONS
from stores.migrate import current_revision, head_revision, is_current
from stores.tokens import own_token
from workers.app import QUEUES, app
from workers.bootstrap import Services, services
from workers.files import files_for
from workers.settings import host_and_port

#: The oldest PostgreSQL and Redis that are known to do.
LEAST_POSTGRES = 15
LEAST_REDIS = (6, 2)
#: Seconds by which clocks may differ before a person reading times is misled. None of them decides anything.
CLOCK_TOLERANCE = 5.0
#: Updates of runs from which on their share of HOT updates says something, and what it should be.
HOT_COUNTED = 1000
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


def hot_updates(wired: Services) -> Found:
    query = "SELECT coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_hot_upd), 0) FROM pg_stat_user_tables"
    with wired.database.begin() as connection:
        updates, hot = connection.execute(text(f"{query} WHERE relname = 'runs'")).one()
    if updates < HOT_COUNTED:
        return True, f"{updates} updates of runs so far: too few to judge their share of HOT updates."
    told = f"{hot / updates:.1%} of {updates:,} updates of runs were HOT"
    if hot / updates < LEAST_HOT:
        return False, f"{told}: is there an index on a column that changes, or is autovacuum held up?"
    return True, f"{told}."


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
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        return True, f"The broker answers ({connection.transport_cls})."


def queues(_: Services) -> Found:
    answers = app.control.inspect(timeout=ANSWER_TIME).active_queues() or {}
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
    if settings.archive_url.startswith("file:"):
        folders["the archive"] = (Path(url2pathname(urlsplit(settings.archive_url).path)), LEAST_FREE)
    told = []
    for name, (folder, wanted) in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.exists())
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
    database,
    migrations,
    timeouts,
    hot_updates,
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


def findings(wired: Services) -> Iterator[Finding]:
    """What each check found, as soon as it has."""
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            well, told = check(wired)
        except Exception as error:
            if not (is_unfit(error) or isinstance(error, EXPECTED)):
                raise
            well, told = False, f"It could not be looked at: {_first_line(error)}"
        yield Finding(name, well, told)


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return next(iter(str(cause).strip().splitlines()), type(error).__name__)


def examine(*, as_json: bool) -> int:
    """Print what is found; 1 if something is wrong."""
    found = []
    console = terminal()
    for finding in findings(services()):
        found.append(finding)
        if not as_json:
            mark = ("ok  ", "green") if finding.well else ("BAD ", "red")
            console.print(Text.assemble(mark, f" {finding.what:<12} ", shown(finding.told)), soft_wrap=True)
    if as_json:
        say_json([asdict(finding) for finding in found])
    return 0 if all(finding.well for finding in found) else 1
