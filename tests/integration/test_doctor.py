"""`reprieve doctor`: each check finds what is wrong, and says what to do; all is well where all is set up."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from reprieve.adapters import registry
from reprieve.cli import doctor, roles
from reprieve.cli.main import app
from reprieve.models.access import Scope
from reprieve.models.notice_rules import Rule
from reprieve.stores.database import Database
from reprieve.stores.embedded.address import choose_port
from reprieve.stores.migrate import head_revision
from reprieve.workers import bootstrap
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.conftest import StartWorker
from tests.support.forking import REPRIEVE
from tests.support.processes import run_command
from tests.support.rows import new_run
from tests.support.waiting import eventually


def changed(services: Services, **changes: Any) -> Services:
    return replace(services, settings=services.settings.model_copy(update=changes))


def bad(found: doctor.Found, words: str) -> bool:
    well, told = found
    assert words in told
    return not well


def test_where_all_is_set_up_all_is_well_and_the_exit_status_is_0(
    services: Services, start_worker: StartWorker
) -> None:
    start_worker("runs,logs,control,archive", name="all")
    wired = changed(services, flower_password=SecretStr("a password"))
    bootstrap.use(wired)
    sweep(wired, by_hand=True)
    eventually(wired.sweeps.heard_at)
    sweep(wired, by_hand=True)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(done.stdout)
    assert [one for one in found if not one["well"]] == []
    assert (done.exit_code, len(found)) == (0, len(doctor.CHECKS))
    shown = CliRunner().invoke(app, ["doctor"])
    assert (shown.exit_code, shown.stdout.count("\n")) == (0, len(doctor.CHECKS))


def test_what_is_wrong_is_told_with_what_to_do_and_the_exit_status_is_1(services: Services) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    for words in ("No worker that answers consumes runs or logs or control or archive", "set REPRIEVE_FLOWER_PASSWORD"):
        assert words in done.stdout
    assert "BAD" in done.stdout


def test_a_pooler_that_keeps_our_timeouts_from_the_server_is_told_with_the_statements_that_would_do(
    services: Services,
) -> None:
    assert doctor.timeouts(services)[0]
    bare = Database(services.settings.require_database_url())
    bare.engine = create_engine(services.settings.require_database_url())
    try:
        assert bad(doctor.timeouts(replace(services, database=bare)), "ALTER ROLE … SET statement_timeout = 30000")
    finally:
        bare.dispose()


def test_a_server_that_is_away_costs_its_own_checks_and_no_other(services: Services) -> None:
    gone = choose_port()
    bootstrap.use(None)
    nowhere = changed(
        services,
        database_url=SecretStr(f"postgresql+psycopg2://u:secret@127.0.0.1:{gone}/d"),
        redis_url=SecretStr(f"redis://:secret@127.0.0.1:{gone}/0"),
    )
    found = {one.what: one for one in doctor.findings(bootstrap.build(nowhere.settings))}
    assert found["redis"].told.startswith("It could not be looked at")
    assert found["database"].told.startswith("The database cannot be used")
    assert not found.keys() & {check.__name__ for check in doctor.OF_DATABASE}
    assert found["space"].well
    assert "secret" not in str(found)


def test_an_older_database_is_to_be_migrated_and_a_newer_one_belongs_to_an_upgrade(services: Services) -> None:
    def put(revision: str) -> None:
        with services.database.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})

    before = str(head_revision())
    assert doctor.migrations(services)[0]
    try:
        put("0001")
        assert bad(doctor.migrations(services), "run `reprieve migrate`")
        put("9999")
        assert not bad(doctor.migrations(services), "an upgrade is under way")
    finally:
        put(before)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "appendonly yes")],
)
def test_a_redis_that_may_lose_messages_is_told(
    services: Services, redis: Redis, name: str, value: str, words: str
) -> None:
    assert doctor.redis(services)[0]
    before = redis.config_get(name)[name]
    redis.config_set(name, value)
    try:
        assert bad(doctor.redis(services), words)
    finally:
        redis.config_set(name, before)


def test_a_queue_that_nobody_consumes_is_named(services: Services, start_worker: StartWorker) -> None:
    start_worker("runs,control,archive", name="some")
    assert bad(doctor.queues(services), "consumes logs: start one")


@pytest.mark.parametrize(("apart", "well"), [(4, True), (6, False)])
def test_clocks_that_differ_are_told(
    services: Services, monkeypatch: pytest.MonkeyPatch, apart: float, well: bool
) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=apart)
    monkeypatch.setattr(services.database, "now", lambda: moment)
    monkeypatch.setattr(time, "time", lambda: moment.timestamp() - apart)
    assert doctor.clocks(services)[0] is well


def test_a_disk_without_room_for_a_full_spool_is_told(services: Services) -> None:
    assert doctor.space(services)[0]
    assert bad(doctor.space(changed(services, spool_bytes=2**60)), "should be free")


def test_an_adapter_that_is_broken_is_named(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.plug_ins(services)[0]
    known = dict(registry.adapter_classes())
    del known["remote"]
    monkeypatch.setattr("reprieve.cli.checks.machine.adapter_classes", lambda: known)
    assert bad(doctor.plug_ins(services), "remote")


def test_an_api_for_a_network_needs_a_token(services: Services) -> None:
    public = changed(services, api_address="0.0.0.0:8000")
    assert doctor.http_api(services)[0]
    assert bad(doctor.http_api(public), "there is no token")
    services.tokens.create("someone", Scope.READ)
    assert doctor.http_api(public)[0]


def test_an_api_that_is_open_is_for_loopback(services: Services) -> None:
    assert doctor.http_api(changed(services, api_open=True))[0]
    assert bad(doctor.http_api(changed(services, api_open=True, api_address="0.0.0.0:8000")), "for loopback only")


# -- in a container of one role


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["/sbin/docker-init", "--", "reprieve", "start", "api"], "api"),
        (["/usr/bin/tini", "-s", "--", "reprieve", "start", "worker-runs", "--lanes=gpu"], "worker-runs"),
        (["python", "/usr/local/bin/reprieve", "api"], "api"),
        (["python", "-P", "-m", *roles.ROLES["worker-control"][3:]], "worker-control"),
        (["python", "-P", "-m", *roles.ROLES["beat"][3:]], "beat"),
        (["/usr/bin/tini", "--", "reprieve", "migrate"], None),
        (["reprieve", "up"], None),
        (["/sbin/init"], None),
        (["somebodys", "api"], None),
    ],
)
def test_the_role_of_a_container_is_that_which_its_first_process_starts_or_has_become(
    command: list[str], role: str | None
) -> None:
    assert roles.role_of(command) == role


@pytest.mark.parametrize("role", roles.ROLES)
def test_a_role_is_spared_what_others_need_and_told_what_it_lacks_itself(services: Services, role: str) -> None:
    bare = changed(services, spool_bytes=2**60, api_address="0.0.0.0:8000")
    services.notices.put_rule(Rule("someone", "https://example.com/"))
    lacking = {one.what for one in doctor.findings(bare, role) if not one.well}
    own = {"api": {"http api"}, "flower": {"flower"}, "worker-control": {"notice secret"}}
    own |= {"worker-runs": {"space"}, "worker-archive": {"space"}}
    local = {"http api", "flower", "notice secret", "space", "open files", "archive"}
    assert lacking & local == own.get(role, set())


def test_an_archive_that_lies_elsewhere_is_told_to_those_who_read_it(services: Services) -> None:
    assert doctor.closed_logs(services)[0]
    run_id = new_run(services).id
    with services.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO log_archives (run_id, attempt, object_key, size, frames, held, gaps) "
                "VALUES (:run, 1, 'some/key', 1, '[]', '{}', '{}')"
            ),
            {"run": run_id},
        )
    assert bad(doctor.closed_logs(services), "is not here")


def test_a_role_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    done = run_command([REPRIEVE, "doctor", "--role=worker"], text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no role 'worker'; there are worker-runs, " in done.stderr
