"""Runs a soak and prints its account; exit status 1 when something in it is wrong."""

import argparse
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from unittest.mock import patch
from urllib.parse import quote, urlsplit

from rich.console import Console
from rich.table import Table

from reprieve.models.status import Status
from reprieve.stores.cache import connect
from reprieve.stores.migrate import migrate
from reprieve.workers import bootstrap
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import load_settings
from tests.soak.account import Account, Lost, account
from tests.soak.chaos import Chaos, tolerant
from tests.soak.work import Source, unfinished
from tests.support.fleet import Fleet
from tests.support.object_store import object_store
from tests.support.tls import Certificate, tls_before

#: The size of the disk that the data folder is on, where one can be mounted: room for the spools of all workers.
DISK = "2g"
#: Seconds between two faults, at random.
FAULTS_EVERY = (1.0, 6.0)


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 140)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Asked to end, it ends what it started.
    with ExitStack() as ending:
        folder = options.folder or Path(ending.enter_context(_temporary()))
        store = ending.enter_context(object_store())
        extra = {"REPRIEVE_DRAIN_SECONDS": "2", "REPRIEVE_LOG_ARCHIVE_URL": "s3://logs/soak", **store.environment}
        fleet = Fleet(folder, ending, time_scale=options.scale, extra=extra, disk=DISK)
        _behind_tls(fleet, ending)
        ending.enter_context(patch.dict("os.environ", fleet.environment))
        services = bootstrap.build(load_settings())
        bootstrap.use(services)
        ending.callback(bootstrap.use, None)
        migrate(services.database)
        source = Source(Random(options.seed), folder)
        began = time.monotonic()
        window = services.timing.window.total_seconds()
        chaos = Chaos(fleet, source, store, Random(options.seed), window, ending)
        _storm(services, source, chaos, options, console)
        _calm(services, source, chaos, console)
        chaos.pick_up()
        chaos.stop_everything()
        with connect(fleet.redis.url) as redis:
            lost = Lost(chaos.lost_nodes | chaos.lost_containers, chaos.lost_containers, chaos.mended)
            result = account(services, source.started, lost, redis)
        result.wrong += chaos.fallen
        result.wrong += [f"two copies at once of {one}" for one in source.twice()]
        _print(console, result, chaos, len(source.started), time.monotonic() - began)
    return 1 if result.wrong else 0


def _behind_tls(fleet: Fleet, ending: ExitStack) -> None:
    """Have all on this host, the broker's clients too, reach the servers over TLS, and verify whom they reach."""
    certificate = Certificate.made(fleet.folder, "127.0.0.1")
    authority = quote(str(certificate.file), safe="")
    for name, server, asked in (
        ("REPRIEVE_DATABASE_URL", fleet.postgres, f"sslmode=verify-full&sslrootcert={authority}"),
        ("REPRIEVE_REDIS_URL", fleet.redis, f"ssl_ca_certs={authority}"),
    ):
        plain = urlsplit(server.url)
        port = ending.enter_context(tls_before(plain.port or 0, certificate, postgres=server is fleet.postgres))
        secure = plain._replace(
            scheme=plain.scheme.replace("redis", "rediss"),
            netloc=f"{plain.netloc.rpartition(':')[0]}:{port}",
            query=asked,
        )
        fleet.environment[name] = secure.geturl()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A long tour under faults.")
    parser.add_argument("--minutes", type=float, default=30, help="of faults; what runs then is waited for")
    parser.add_argument("--scale", type=int, default=10, help="divides all timings; 1 for 300/60/60")
    parser.add_argument("--runs", type=int, default=200, help="that are under way at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=_new_folder, help="where what its processes said is kept; removed without it")
    return parser.parse_args()


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)


def _new_folder(given: str) -> Path:
    folder = Path(given).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise argparse.ArgumentTypeError(f"{given} is not empty: name a folder that is, or a new one")
    return folder


def _storm(services: Services, source: Source, chaos: Chaos, options: argparse.Namespace, console: Console) -> None:
    """Faults, one after the other, while so many runs are kept under way."""
    random, ends = Random(options.seed), time.monotonic() + options.minutes * 60
    longest = min(options.minutes * 60 / 3, 4 * services.timing.window.total_seconds())
    told = 0.0
    while time.monotonic() < ends:
        tolerant(lambda: [source.start(longest) for _ in range(options.runs - _under_way(services))])
        tolerant(source.cancel_one)
        chaos.act()
        if time.monotonic() - told > 60:
            told = time.monotonic()
            left = (ends - told) / 60
            console.print(f"{left:.0f} min left; {len(source.started)} runs, faults {dict(chaos.done)}", soft_wrap=True)
        time.sleep(random.uniform(*FAULTS_EVERY))


def _under_way(services: Services) -> int:
    return len(services.records.newest(statuses=[Status.QUEUED, Status.RUNNING], limit=10_000))


def _calm(services: Services, source: Source, chaos: Chaos, console: Console) -> None:
    """No more faults: wait for every run to end, and for everything that is owed."""
    deadline = time.monotonic() + 120 + 10 * services.timing.window.total_seconds()
    while time.monotonic() < deadline:
        chaos.pick_up()
        tolerant(source.cancel_one)
        left = unfinished(source.started, lambda run_id: services.runs.get(run_id).status)
        if not left and not any(services.fleet.owed().values()):
            return
        time.sleep(1)
    names = [(one.kind.name, str(one.run_id)) for one in left]
    console.print(f"not ended in time: {names}; owed: {services.fleet.owed()}", soft_wrap=True)


def _print(console: Console, result: Account, chaos: Chaos, runs: int, seconds: float) -> None:
    table = Table(title=f"{runs} runs in {seconds / 60:.1f} min", box=None, title_justify="left")
    table.add_column("what")
    table.add_column("how many", justify="right")
    for rows in (sorted(chaos.done.items()), sorted(result.ends.items())):
        for name, count in rows:
            table.add_row(name, str(count))
        table.add_section()
    table.add_row("lines of log, each there once", f"{result.lines:,}")
    table.add_row("adoptions", str(result.adoptions))
    table.add_row("retries", str(result.retries))
    if result.detection:
        ordered = sorted(result.detection)
        told = f"{ordered[0]:.1f} / {ordered[len(ordered) // 2]:.1f} / {ordered[-1]:.1f}"
        table.add_row("seconds from death to reap, least / median / most", told)
    console.print(table)
    for sentence in result.wrong:
        console.print(f"WRONG: {sentence}", soft_wrap=True)
    console.print("All is accounted for." if not result.wrong else f"{len(result.wrong)} things are wrong.")


if __name__ == "__main__":
    sys.exit(main())
