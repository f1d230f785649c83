"""`reprieve doctor`: what is set up, what is not, and what to do, a line each.

The checks are in `cli/checks/`. One that raises has found something wrong, and costs no other. In a container of one
role, what only other roles need is not looked at: it may well not be there.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from reprieve.cli.checks import Found
from reprieve.cli.checks.access import flower, http_api
from reprieve.cli.checks.fleet import archive, archiving, closed_logs, hosts, lanes, notice_secret, notices, reaper
from reprieve.cli.checks.machine import open_files, plug_ins, settings, space, versions
from reprieve.cli.checks.messaging import broker, queues, redis
from reprieve.cli.checks.postgres import (
    clocks,
    database,
    encryption,
    hot_updates,
    migrations,
    retention,
    standbys,
    tables,
    timeouts,
)
from reprieve.cli.render import terminal
from reprieve.cli.sentences import say_json
from reprieve.models.errors import ReprieveError
from reprieve.models.faults import is_unfit
from reprieve.models.text import shown
from reprieve.workers.bootstrap import Services, fleet_services, services

#: Whatever a server may say of what a check asks it, beside that it is down.
EXPECTED = (DBAPIError, RedisError, KombuError, OSError, ReprieveError)
CHECKS: tuple[Callable[[Services], Found], ...] = (
    settings,
    database,
    encryption,
    migrations,
    timeouts,
    hot_updates,
    standbys,
    tables,
    retention,
    archive,
    closed_logs,
    archiving,
    redis,
    broker,
    queues,
    reaper,
    hosts,
    lanes,
    notices,
    notice_secret,
    clocks,
    space,
    open_files,
    plug_ins,
    flower,
    http_api,
    versions,
)
#: What can be looked at only where there is a database: one that is down is reported once.
OF_DATABASE = frozenset(
    {
        *(encryption, migrations, timeouts, hot_updates, standbys, tables, retention, closed_logs, archiving),
        *(reaper, hosts, lanes, notices, notice_secret, clocks, http_api),
    }
)
#: What is looked at for the sake of some roles only. Everything else is of the whole fleet, or of every process.
NEEDED_BY: dict[Callable[[Services], Found], frozenset[str]] = {
    archive: frozenset({"worker-archive", "api"}),
    closed_logs: frozenset({"worker-archive", "api"}),
    notice_secret: frozenset({"worker-control"}),
    space: frozenset({"worker-runs", "worker-archive"}),
    open_files: frozenset({"worker-runs"}),
    plug_ins: frozenset({"worker-runs", "worker-control", "api"}),
    flower: frozenset({"flower"}),
    http_api: frozenset({"api"}),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    what: str
    well: bool
    told: str


def checks_for(role: str | None) -> tuple[Callable[[Services], Found], ...]:
    """What is looked at where that role runs; everything where it is None."""
    return tuple(check for check in CHECKS if role is None or role in NEEDED_BY.get(check, {role}))


def findings(wired: Services, role: str | None = None) -> Iterator[Finding]:
    """What each check found, as soon as it has."""
    down = False
    for check in checks_for(role):
        if down and check in OF_DATABASE:
            continue
        try:
            well, told = check(wired)
        except Exception as error:
            if not (is_unfit(error) or isinstance(error, EXPECTED)):
                raise
            down = down or check is database
            well, told = (
                False,
                _of_database(error) if check is database else f"It could not be looked at: {_cause(error)}",
            )
        yield Finding(check.__name__.replace("_", " "), well, told)


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


def examine(role: str | None, *, as_json: bool) -> int:
    """Print what is found; 1 if something is wrong."""
    found = []
    console = terminal()
    for finding in findings(_wired(), role):
        found.append(finding)
        if not as_json:
            mark = ("ok  ", "green") if finding.well else ("BAD ", "red")
            console.print(Text.assemble(mark, f" {finding.what:<12} ", shown(finding.told)), soft_wrap=True)
    if as_json:
        say_json([asdict(finding) for finding in found])
    return 0 if all(finding.well for finding in found) else 1
