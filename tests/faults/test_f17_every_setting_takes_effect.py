"""F17: what a user sets takes effect, or is refused by one sentence that names it and says what would do."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from sqlalchemy import text

from reprieve.cli.checks.postgres import migrations
from reprieve.cli.listening import refuse_taken
from reprieve.client.enqueue import enqueue_run
from reprieve.models.errors import SettingsError
from reprieve.stores.database import Database
from reprieve.stores.embedded.address import choose_port
from reprieve.stores.migrate import current_revision, head_revision, migrate
from reprieve.stores.partitions import keep_partitions
from reprieve.stores.urls import Url
from reprieve.workers import bootstrap
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import Settings, load_settings, unknown_names
from tests.conftest import Servers
from tests.support import processes
from tests.support.forking import REPRIEVE

pytestmark = pytest.mark.row("F17")


@pytest.fixture
def reprieve(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in a folder of its own, with no settings but those that are given."""

    def run(*words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"PATH": os.environ["PATH"], "REPRIEVE_DATA_DIR": str(tmp_path / "data"), **environment}
        given = {name: value for name, value in given.items() if value != "(unset)"}
        command = ["sh", "-c", f'"$@" {shell}', "sh", REPRIEVE, *words] if shell else [REPRIEVE, *words]
        return processes.run_command(command, env=given, cwd=tmp_path, text=True)

    return run


def is_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    """Whether the command has refused, in one line on standard error, with these words."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    return True


# -- names that are misspelt


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REPRIEVE_DATABSE_URL", "REPRIEVE_DATABASE_URL"),
        ("REPRIEVE_REDIS_PASSWROD", "REPRIEVE_REDIS_PASSWORD"),
        ("REPRIEVE_LOG_RETENTION_DAY", "REPRIEVE_LOG_RETENTION_DAYS"),
        ("REPRIEVE_DATABASE_PASSWORDFILE", "REPRIEVE_DATABASE_PASSWORD_FILE"),
        ("REPREIVE_DATA_DIR", "REPRIEVE_DATA_DIR"),
        ("reprieve_datadir", "REPRIEVE_DATA_DIR"),
    ],
)
def test_a_misspelt_name_is_refused_in_the_environment_and_in_the_file_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, meant: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if place == "file":
        (tmp_path / ".env").write_text(f"# Ours.\nexport {name}='hunter2'\n")
    else:
        monkeypatch.setenv(name, "hunter2")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value) == f"{name.upper()} is no setting; did you mean {meant}?"


def test_a_name_that_resembles_no_setting_is_somebody_elses_and_told_by_the_doctor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=x\nREPRIEVE_HOORAY=1\nREPRIEVE_DATA_DIR=here\n")
    monkeypatch.delenv("REPRIEVE_DATA_DIR", raising=False)
    assert load_settings().data_dir == tmp_path / "here"
    assert unknown_names() == ["REPRIEVE_HOORAY"]


# -- the file


def test_a_file_of_settings_that_is_no_text_is_refused_by_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".env"
    for content, told in {
        "REPRIEVE_NODE_NAME=größe\n".encode("latin-1"): r"\.env is not UTF-8 text",
        "\ufeffREPRIEVE_TIME_SCALE=7\n".encode(): "REPRIEVE_TIME_SCALE: ",
        b"REPRIEVE_TIME_SCALE\n": r"line 1, is not of the form NAME=VALUE",
        b"# Ours.\n'REPRIEVE_TIME_SCALE=3\n": r"line \d, is not of the form NAME=VALUE",
    }.items():
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=told):
            load_settings()


def test_a_folder_of_that_name_is_no_file_of_settings(
    reprieve: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / ".env").mkdir()
    assert is_one_sentence(reprieve("ps"), "REPRIEVE_DATABASE_URL is not set")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_of_settings_that_cannot_be_read_is_refused_by_a_sentence(
    reprieve: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / ".env").touch(mode=0o000)
    assert is_one_sentence(reprieve("ps"), ".env cannot be read (Permission denied)")


# -- the place


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_data_folder_that_is_none_or_cannot_be_written_is_refused_by_a_sentence(
    reprieve: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    told = reprieve("up", REPRIEVE_DATA_DIR=str(tmp_path / place))
    assert is_one_sentence(told, "The data folder", str(tmp_path / place), "set REPRIEVE_DATA_DIR")


def test_no_home_is_no_traceback(reprieve: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    told = reprieve("ps", HOME="(unset)", REPRIEVE_DATA_DIR="~nobody-of-that-name/x")
    assert is_one_sentence(told, "REPRIEVE_DATA_DIR", "no such home folder")
    assert is_one_sentence(reprieve("ps", HOME="(unset)"), "REPRIEVE_DATABASE_URL is not set")


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}],
)
def test_a_terminal_without_our_characters_shows_what_it_can(
    reprieve: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str]
) -> None:
    told = reprieve("run", "--label", "größe", "--", "true", **environment)
    assert is_one_sentence(told, "is not of the form NAME=VALUE")


@pytest.mark.parametrize(
    ("shell", "told"),
    [(">&-", ""), ("| true", ""), ("> /dev/full", "The output cannot be written (No space left on device)")],
)
def test_an_output_that_takes_nothing_is_no_traceback(
    reprieve: Callable[..., subprocess.CompletedProcess[str]], shell: str, told: str
) -> None:
    done = reprieve("--help", shell=shell)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert told in done.stderr


def test_a_role_that_is_started_refuses_its_settings_by_a_sentence(
    reprieve: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    assert is_one_sentence(reprieve("start", "beat", REPRIEVE_TIME_SCALE="7"), "REPRIEVE_TIME_SCALE")
    assert is_one_sentence(reprieve("start", "api", REPRIEVE_REDIS_HOST="h"), "REPRIEVE_DATABASE_URL is not set")


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("REPRIEVE_LOG_RETENTION_DAYS", "1e300", "less than or equal to 36500"),
        ("REPRIEVE_DRAIN_SECONDS", "inf", "less than or equal to"),
        ("REPRIEVE_API_ADDRESS", "localhost", "must be HOST:PORT"),
        ("REPRIEVE_DATABASE_HOST", "h:5433", "one host; its port is a setting of its own"),
        ("REPRIEVE_REDIS_HOST", "a,b", "one host"),
    ],
)
def test_a_value_that_could_not_take_effect_is_refused(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, told: str
) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(f"REPRIEVE_{name}", "")
    monkeypatch.setenv(setting, value)
    with pytest.raises(SettingsError, match=f"{setting}: .*{told}"):
        load_settings()


# -- addresses


@contextmanager
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("setting", ["REPRIEVE_API_ADDRESS", "REPRIEVE_METRICS_ADDRESS", "FLOWER_PORT"])
def test_up_refuses_an_address_that_is_taken_before_it_starts_anything(
    reprieve: Callable[..., subprocess.CompletedProcess[str]], setting: str, tmp_path: Path
) -> None:
    with taken() as address:
        value = address.partition(":")[2] if setting == "FLOWER_PORT" else address
        told = reprieve("up", **{setting: value})
        assert is_one_sentence(told, setting, address, "another program listens", "set another")
    assert not (tmp_path / "data" / "postgres").exists()


def test_the_api_and_flower_refuse_an_address_that_is_taken_by_a_sentence(
    reprieve: Callable[..., subprocess.CompletedProcess[str]], servers: Servers
) -> None:
    with taken() as address:
        told = reprieve("api", REPRIEVE_API_ADDRESS=address, **servers.environment)
        assert is_one_sentence(told, "REPRIEVE_API_ADDRESS", address, "another program listens")
        told = reprieve("flower", FLOWER_PORT=address.partition(":")[2], REPRIEVE_FLOWER_PASSWORD="x")
        assert is_one_sentence(told, "FLOWER_PORT", address, "another program listens")


def test_an_address_that_is_free_is_taken_and_one_that_is_none_is_told() -> None:
    refuse_taken("X", f"127.0.0.1:{choose_port()}")
    with pytest.raises(SettingsError, match=r"no address of this machine"):
        refuse_taken("X", "192.0.2.1:80")
    with pytest.raises(SettingsError, match="cannot be found"):
        refuse_taken("X", "no-such-host.invalid:80")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:99999"])
def test_a_port_that_is_none_is_refused(address: str) -> None:
    for setting in ("api_address", "metrics_address"):
        with pytest.raises(ValueError, match="from 1 to 65535"):
            Settings.model_validate({setting: address})


# -- what a URL asks for


@pytest.mark.parametrize(
    ("setting", "url", "told"),
    [
        ("database_url", "postgresql://h/d?poolsize=3", "poolsize in its query, which nothing heeds"),
        ("database_url", "postgresql://h/d?ssl_cert_reqs=none", "ssl_cert_reqs in its query, which nothing heeds"),
        ("database_url", "postgresql://h/d?connect_timeout=1", "connect_timeout .* is Reprieve's own to set"),
        ("database_url", "postgresql://h/d?client_encoding=latin1", "client_encoding .* is Reprieve's own to set"),
        ("database_url", "postgresql://h/d?sslmode=verify", "sslmode that is none of disable, allow, prefer"),
        ("broker_url", "rabbitmq://h//", "no broker that Celery knows"),
        ("broker_url", "memory://", "no broker that several processes share"),
        ("database_url", f"postgresql://h/d?search_path={'x' * 64}", "63 bytes at most"),
        ("database_url", "postgresql://h/d?search_path=pg_ours", "63 bytes at most"),
        ("database_url", "postgresql://h/d?search_path=information_schema", "63 bytes at most"),
        ("database_url", "postgresql://u:a%00b@h/d", "cannot be read as a URL"),
        ("database_url", "postgresql://h/d?password=x", "password .* is said elsewhere"),
        ("database_url", "postgresql://h/d?options=-cstatement_timeout%3D0", "sets statement_timeout by its options"),
        ("database_url", "postgresql://h/d?options=what", "not of the form -c name=value"),
        ("database_url", "postgresql://h/d?search_path=a,b", "not one schema"),
        ("database_url", 'postgresql://h/d?search_path="$user"', "not one schema"),
        ("database_url", "postgresql://h/d?search_path=a&options=-csearch_path%3Db", "not one schema"),
        ("redis_url", "redis://h/0?socket_timeot=1", "socket_timeot in its query, which nothing heeds"),
        ("redis_url", "redis://h/zero", "no number"),
        ("redis_url", "redis://h/-1", "no number"),
        ("redis_url", "redis://h/1/2", "no number"),
        ("redis_url", "redis:///0", "must name one host"),
        ("redis_url", "redis://a,b/0", "must name one host"),
        ("redis_url", "unix:///s.sock?database=1", "database in its query"),
        ("redis_url", "sentinel://h/0?master=m&db=1", "its query may say master"),
        ("broker_url", "redis://h/x", "no number"),
        ("broker_url", "amqp://h//?heartbeats=1", "heartbeats in its query"),
        ("broker_url", "amqp://h:99999//", "has a port that is none"),
    ],
)
def test_what_a_url_asks_for_and_nothing_heeds_is_refused_with_what_would_do(setting: str, url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings.model_validate({setting: url})


def test_a_database_that_this_redis_has_not_is_one_sentence(
    reprieve: Callable[..., subprocess.CompletedProcess[str]], servers: Servers
) -> None:
    url = servers.redis.url.removesuffix("/0") + "/4096"
    done = reprieve("doctor", REPRIEVE_DATABASE_URL=servers.postgres.url, REPRIEVE_REDIS_URL=url)
    assert "Traceback" not in done.stderr
    assert "DB index is out of range" in done.stdout


# -- a schema of its own


@pytest.fixture(params=["plain", 'Odd "na:me" of\\:ours'])
def schema(request: pytest.FixtureRequest, services: Services) -> Iterator[str]:
    """The name of a schema that is not there yet, and gone afterwards."""
    name: str = request.param
    yield name
    with services.database.begin() as connection:
        connection.exec_driver_sql('DROP SCHEMA IF EXISTS "' + name.replace('"', '""') + '" CASCADE')


def tables_of(database: Database, schema: str) -> set[str]:
    query = text("SELECT tablename FROM pg_tables WHERE schemaname = :schema")
    with database.begin() as connection:
        return set(connection.execute(query, {"schema": schema}).scalars())


def named(tables: set[str]) -> set[str]:
    """Without the partitions of single days."""
    return {name for name in tables if not name.startswith("log_segments_")}


@pytest.mark.parametrize("form", ["", "search_path={}", "options=-csearch_path%3D{}", "options=-c%20search_path%3D{}"])
def test_a_system_in_a_schema_of_its_own_shares_nothing_with_one_in_public(
    services: Services, servers: Servers, schema: str, form: str, tmp_path: Path
) -> None:
    wanted = schema if schema.isidentifier() else '"' + schema.replace('"', '""') + '"'
    if "options" in form:
        wanted = wanted.replace("\\", "\\\\").replace('"', '\\"').replace(" ", "\\ ")
    url = f"{servers.postgres.url}?{form.format(quote(wanted, safe=''))}".removesuffix("?")
    by_a_setting = {} if form else {"database_schema": schema}
    settings = load_settings(database_url=url, **by_a_setting, data_dir=tmp_path / "other")
    other = bootstrap.build(settings)
    try:
        told = f"The schema {schema} of the database is at revision"
        assert migrations(other) == (False, f"{told} none, not {head_revision()}: run `reprieve migrate`.")
        assert migrate(other.database) == head_revision()
        assert migrations(other) == (True, f"{told} {head_revision()}, as this version expects.")
        with services.database.begin() as connection:
            assert current_revision(connection) == head_revision()
        keep_partitions(other.database)
        assert keep_partitions(other.database) == {"partitions_made": 0, "partitions_dropped": 0}
        assert named(tables_of(services.database, schema)) == named(tables_of(services.database, "public"))
        assert len(tables_of(services.database, schema)) > len(named(tables_of(services.database, schema)))
        run = enqueue_run("process", {"command": ["true"]})
        assert other.records.newest(statuses=[], limit=10) == []
        bootstrap.use(other)
        ours = [enqueue_run("process", {"command": ["true"]}).id for _ in range(3)]
        with other.database.begin() as connection:
            ours.append(enqueue_run("process", {"command": ["true"]}, within=connection).id)
        assert [one.id for one in other.records.newest(statuses=[], limit=10)] == ours[::-1]
        assert [one.id for one in services.records.newest(statuses=[], limit=10)] == [run.id]
    finally:
        other.database.dispose()


def test_a_schema_that_is_dropped_on_the_way_is_refused_rather_than_another_one_used(
    services: Services, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = psycopg2.connect

    def as_a_pooler(**arguments: Any) -> Any:
        return connect(**{name: value for name, value in arguments.items() if name != "options"})

    monkeypatch.setattr(psycopg2, "connect", as_a_pooler)
    database = Database(f"{servers.postgres.url}?search_path=elsewhere")
    try:
        with pytest.raises(SettingsError, match=r'the schema elsewhere, and sessions have the search_path "\$user'):
            migrate(database)
    finally:
        database.dispose()


def test_what_a_file_of_settings_holds_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("REPRIEVE_REDIS_HOST=h\nREPRIEVE_REDIS_PASSWORD=a$b${HOME}c\n")
    monkeypatch.delenv("REPRIEVE_REDIS_URL", raising=False)
    url = load_settings().redis_url
    assert url is not None
    assert Url.parse(url.get_secret_value()).password == "a$b${HOME}c"
