"""F18: nothing waits for the other side to notice: leases end by the database's clock, half-open sessions soon."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from reprieve.models.closing import Closing
from reprieve.models.errors import LeaseLost
from reprieve.models.health import ailments
from reprieve.models.liveness import SWEEP_INTERVAL, SWEEP_LEASE, Timing
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.database import Database
from reprieve.stores.embedded import EmbeddedPostgres, postgres
from reprieve.stores.leases import Leases
from reprieve.stores.migrate import migrate
from reprieve.stores.postgres_address import SERVER_KEEPALIVES, SERVER_UNANSWERED_TIMEOUT_MS
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import CLOSE_LEASE, close_log
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.conftest import StartWorker
from tests.faults.helpers_abf import interrupted, last_completed_at, lengthen_watch
from tests.support import network
from tests.support.rows import age, chunk, ingest, kinds, running, watch_for
from tests.support.waiting import eventually

pytestmark = [pytest.mark.row("F18"), pytest.mark.usefixtures("every_log_is_large")]

LENGTH = timedelta(seconds=60)


def held(services: Services) -> dict[str, str]:
    """Who holds what, the row of a lease whose time is over included."""
    with services.database.begin() as connection:
        return {row.name: row.holder for row in connection.execute(text("SELECT name, holder FROM leases"))}


def let_it_pass(services: Services, seconds: float = 3600) -> None:
    """Have so much time gone by for whoever holds a lease."""
    with services.database.begin() as connection:
        statement = text("UPDATE leases SET since = since - :age, until = until - :age")
        connection.execute(statement, {"age": timedelta(seconds=seconds)})


# -- a lease


def test_a_lease_is_one_holders_at_a_time_and_leaves_no_row_behind(services: Services) -> None:
    other = Leases(services.database, lambda: "elsewhere")
    with services.leases.hold("this", LENGTH) as ours, other.hold("this", LENGTH) as theirs:
        assert ours
        assert theirs is None
        with other.hold("that", LENGTH) as another:
            assert another
        assert held(services) == {"this": services.leases.holder}
        assert services.leases.holder.startswith("test-host, process ")
    assert held(services) == {}


@pytest.mark.parametrize(("passed", "free"), [(58, False), (61, True)])
def test_a_lease_is_anothers_to_take_once_its_time_is_over(services: Services, passed: float, free: bool) -> None:
    other = Leases(services.database, lambda: "elsewhere")
    with services.leases.hold("this", LENGTH) as ours:
        assert ours
        let_it_pass(services, passed)
        with other.hold("this", LENGTH) as theirs:
            assert bool(theirs) is free
            if free:
                with pytest.raises(LeaseLost):
                    ours.renew()


def test_who_renews_goes_on_and_who_lost_it_does_not_release_what_is_anothers(services: Services) -> None:
    other = Leases(services.database, lambda: "elsewhere")
    with services.leases.hold("this", LENGTH) as ours:
        assert ours
        let_it_pass(services, 59)
        ours.renew()
        let_it_pass(services, 59)
        with other.hold("this", LENGTH) as nobody:
            assert nobody is None
        # Late, but nobody has wanted it.
        let_it_pass(services)
        ours.renew()
        let_it_pass(services)
        taken = other.hold("this", LENGTH)
        assert taken.__enter__()
    assert held(services) == {"this": other.holder}
    taken.__exit__(None, None, None)


def test_no_transaction_is_open_while_a_lease_is_held(services: Services) -> None:
    open_ones = text(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid() "
        "AND xact_start IS NOT NULL"
    )
    with services.leases.hold("this", LENGTH), services.database.begin() as connection:
        assert connection.execute(open_ones).scalar() == 0


def test_what_killed_holders_left_is_cleared_away_in_the_end(services: Services) -> None:
    holds = [services.leases.hold(name, LENGTH) for name in ("old", "young")]
    for hold, name, passed in zip(holds, ("old", "young"), (2 * 3600, 120), strict=True):
        hold.__enter__()
        with services.database.begin() as connection:
            statement = text("UPDATE leases SET until = until - :age WHERE name = :name")
            connection.execute(statement, {"age": timedelta(seconds=passed), "name": name})
    assert services.leases.tidy() == 1
    assert set(held(services)) == {"young"}


# -- a sweep


def test_a_sweeps_lease_is_over_before_the_sweep_after_the_next() -> None:
    assert timedelta(seconds=30 + 10) < SWEEP_LEASE < SWEEP_INTERVAL
    assert Timing.scaled(30).sweep_lease <= 2 * Timing.scaled(30).sweep_interval


def test_a_sweep_that_stood_still_stops_when_it_thaws_and_leaves_the_newer_watch_alone(services: Services) -> None:
    dead = running(services).run_id
    age(services, dead, 600)
    watch_for(services, 3600)
    newer = []

    def freeze(_: object) -> None:
        let_it_pass(services)
        newer.append(sweep(services, by_hand=True))
        newer.append(services.sweeps.last_watch())
        newer.append(last_completed_at(services))

    assert sweep(interrupted(services, freeze)) == {"stopped": "another sweep has taken its place"}
    assert newer[0]["reaped"] == 1
    assert newer[1:] == [services.sweeps.last_watch(), last_completed_at(services)]
    assert kinds(services, dead).count("reaped") == 1
    assert held(services) == {}


def test_a_sweep_that_was_only_slow_and_nobody_else_made_comes_to_its_end(services: Services) -> None:
    running(services)
    watch_for(services, 3600)
    age(services, running(services).run_id, 600)
    assert sweep(interrupted(services, lambda _: let_it_pass(services)))["reaped"] == 1


def test_health_names_who_is_at_a_sweep_and_since_when(services: Services) -> None:
    assert services.sweeps.pulse().holder is None
    with services.sweeps.single_flight():
        let_it_pass(services, 200)
        pulse = services.sweeps.pulse()
        assert pulse.holder == services.leases.holder
        (reason,) = ailments(pulse, services.timing)
        assert f"A sweep of {services.leases.holder} is under way since 200 s." in reason


@pytest.fixture
def stuck(services: Services) -> Iterator[Callable[[], None]]:
    """While this lasts, no sweep comes further than its watch; the function lets them go on."""
    with services.database.engine.connect() as connection:
        connection.execute(text("LOCK TABLE reaper_watch IN EXCLUSIVE MODE"))
        yield connection.rollback


def test_a_control_worker_that_is_frozen_in_mid_sweep_costs_two_sweeps_and_no_more(
    services: Services, start_worker: StartWorker, start_beat: Callable[[], object], stuck: Callable[[], None]
) -> None:
    workers = [start_worker("control,logs", name=name, wait=False) for name in ("one", "two")]
    for worker in workers:
        worker.wait_for(" ready.")
    holder = eventually(lambda: held(services).get("reaper.sweep"), what="a sweep under way")
    frozen = next(worker for worker in workers if holder.endswith(f"process {worker.pid}"))
    frozen.send(signal.SIGSTOP)
    stuck()
    began = time.monotonic()
    start_beat()
    try:
        eventually(lambda: last_completed_at(services), timeout=60, what="a sweep of the other one")
        assert held(services).get("reaper.sweep") != holder
        # Two sweeps of 2 seconds each, and what a busy machine and starting beat take.
        assert time.monotonic() - began < 4 + 26
    finally:
        frozen.send(signal.SIGCONT)
    lengthen_watch(services)
    before = last_completed_at(services)
    eventually(lambda: last_completed_at(services) != before, what="sweeps to go on")


# -- a closing


def ended(services: Services) -> Work:
    work = running(services)
    ingest(services, [chunk(work, seq) for seq in range(1, 6)])
    finish(services, [End.by_result(work.fence, Outcome.of_exit(0), 5)])
    return work


def test_a_closing_whose_process_is_frozen_holds_its_log_for_its_lease_and_no_longer(services: Services) -> None:
    work = ended(services)
    other = Leases(services.database, lambda: "elsewhere")
    with other.hold(f"close {work.run_id} 1", CLOSE_LEASE) as theirs:
        assert theirs
        let_it_pass(services, CLOSE_LEASE.total_seconds() - 2)
        assert close_log(services, work.run_id, 1) is Closing.WAIT
        let_it_pass(services, 3)
        assert close_log(services, work.run_id, 1) is Closing.DONE
    assert held(services) == {}
    assert [one.seq for one in services.logs.read(work.run_id, 1)] == [1, 2, 3, 4, 5]


def test_a_long_closing_renews_as_it_goes_and_stops_where_another_has_its_log(services: Services) -> None:
    work = ended(services)
    other = Leases(services.database, lambda: "elsewhere")
    with services.leases.hold("this", timedelta(milliseconds=4)) as ours:
        assert ours
        going = ours.while_going_through(services.logs.hot(work.run_id, 1))
        next(going)
        time.sleep(0.01)
        next(going)
        let_it_pass(services)
        with other.hold("this", LENGTH) as theirs:
            assert theirs
            time.sleep(0.01)
            with pytest.raises(LeaseLost):
                next(going)


# -- sessions


def test_every_session_asks_its_server_to_notice_a_host_that_is_gone_within_a_minute(services: Services) -> None:
    with services.database.begin() as connection:
        asked = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in SERVER_KEEPALIVES}
        unanswered = connection.execute(text("SHOW tcp_user_timeout")).scalar_one()
    assert {name: int(value) for name, value in asked.items()} == SERVER_KEEPALIVES
    assert int(unanswered) == SERVER_UNANSWERED_TIMEOUT_MS
    idle, interval, count = SERVER_KEEPALIVES.values()
    assert idle + interval * count < 60
    assert SERVER_UNANSWERED_TIMEOUT_MS < 60_000


def test_on_a_link_with_seconds_of_latency_a_connection_can_still_be_made(services: Services) -> None:
    url = make_url(services.settings.require_database_url())
    assert url.port
    with network.slow_link(url.port, 0.9) as port:
        far = Database(url.set(port=port).render_as_string(hide_password=False))
        began = time.monotonic()
        far.now()
        # So long as to be too long for an impatient client.
        assert time.monotonic() - began > 6
        far.dispose()


#: What runs on the host that is cut off: it is in the middle of a sweep, and of a transaction.
CUT_OFF = """
import sys, time
from reprieve.stores import database, postgres_address
from reprieve.stores.leases import Leases
from sqlalchemy import text
from datetime import timedelta
postgres_address.SERVER_OPTIONS.update(tcp_keepalives_idle=1, tcp_keepalives_interval=1, tcp_keepalives_count=2,
                               tcp_user_timeout=3000)
wired = database.Database(sys.argv[1])
with Leases(wired, lambda: "far").hold("reaper.sweep", timedelta(seconds=4)) as lease, wired.begin() as connection:
    assert lease
    connection.execute(text("LOCK TABLE reaper_watch IN EXCLUSIVE MODE"))
    print("under way", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def reachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own that listens on every address of this machine."""
    monkeypatch.setitem(postgres.SETTINGS, "listen_addresses", "*")
    server = EmbeddedPostgres(tmp_path / "reachable")
    try:
        server.start()
        with (server._data() / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 198.18.0.0/15 scram-sha-256\n")
        server.stop()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.skipif(not network.available(), reason="needs root and `ip netns`")
def test_a_host_that_is_cut_off_without_a_reset_holds_neither_its_lease_nor_its_session(
    reachable: EmbeddedPostgres, tmp_path: Path
) -> None:
    database = Database(reachable.url)
    migrate(database)
    leases = Leases(database, lambda: "near")
    script = tmp_path / "cut_off.py"
    script.write_text(CUT_OFF)
    with network.another_host() as host:
        url = make_url(reachable.url).set(host=host.here).render_as_string(hide_password=False)
        command = host.command(sys.executable, str(script), url)
        far = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        try:
            assert far.stdout is not None
            assert far.stdout.readline() == "under way\n"
            assert of_host(database, host.there) > 0
            host.cut()
            eventually(lambda: took(leases), timeout=20, what="the lease")
            eventually(lambda: of_host(database, host.there) == 0, timeout=20, what="its sessions to be gone")
            with database.begin() as connection:
                connection.execute(text("LOCK TABLE reaper_watch IN EXCLUSIVE MODE NOWAIT"))
        finally:
            with suppress(ProcessLookupError):
                far.kill()
            far.communicate()
            database.dispose()


def of_host(database: Database, address: str) -> int:
    with database.begin() as connection:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE client_addr = CAST(:address AS inet)")
        return int(connection.execute(query, {"address": address}).scalar_one())


def took(leases: Leases) -> bool:
    with leases.hold("reaper.sweep", LENGTH) as lease:
        return lease is not None
