"""F15: any password works where it is a setting of its own, and no part of one is shown, whatever is wrong."""

import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import kombu
import psutil
import pytest
import yaml
from redis import Redis
from sqlalchemy import make_url, text

from reprieve.models.errors import SettingsError
from reprieve.stores.cache import connect
from reprieve.stores.database import Database
from reprieve.stores.embedded.address import choose_port
from reprieve.stores.embedded.redis import find_program
from reprieve.stores.urls import Url
from reprieve.workers import broker, broker_address
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import Settings, load_settings
from tests.conftest import Servers, StartWorker
from tests.support.forking import REPRIEVE
from tests.support.processes import Process, run_command, spawn

pytestmark = pytest.mark.row("F15")

PASSWORDS = [
    "Xk/v0+Qa9/Zp3w==",
    "alpha@bravo:charlie#delta?ekko&foxtrot=golf%41%zz",
    " spaces around 'single' \"double\" `back` $HOME \\ | ; , [brackets] ",
    "päßwörtchen-密码-🔑",
    "//@@::%%##??",
    "%2F%40",
]
ROOT = Path(__file__).parents[2]


def set_apart(servers: Servers, monkeypatch: pytest.MonkeyPatch, password: str, **more: str) -> None:
    """The servers as settings of their own, without a URL."""
    postgres, redis = make_url(servers.postgres.url), make_url(servers.redis.url)
    for name, value in {
        "DATABASE_URL": "",
        "DATABASE_HOST": str(postgres.host),
        "DATABASE_PORT": str(postgres.port),
        "DATABASE_NAME": str(postgres.database),
        "DATABASE_USER": str(postgres.username),
        "DATABASE_PASSWORD": password,
        "REDIS_URL": "",
        "REDIS_HOST": str(redis.host),
        "REDIS_PORT": str(redis.port),
        "REDIS_USER": "na/me",
        "REDIS_PASSWORD": password,
        **more,
    }.items():
        monkeypatch.setenv(f"REPRIEVE_{name}", value)


@contextmanager
def with_password(servers: Servers, password: str) -> Iterator[None]:
    """Both servers let in whoever has this password, for the block."""
    known = make_url(servers.postgres.url).password
    owner = Database(servers.postgres.url)
    change = text(
        "DO $do$ BEGIN EXECUTE format('ALTER ROLE reprieve PASSWORD %L', current_setting('test.new')); END $do$"
    )
    with connect(servers.redis.url) as redis, owner.at_once() as connection:

        def become(new: str | None) -> None:
            connection.execute(text("SELECT set_config('test.new', :new, false)"), {"new": new})
            connection.execute(change)

        redis.execute_command("ACL", "SETUSER", "na/me", "reset", "on", f">{password}", "~*", "&*", "+@all")
        become(password)
        try:
            yield
        finally:
            become(known)
            redis.execute_command("ACL", "DELUSER", "na/me")
    owner.dispose()


def get_in(settings: Settings) -> None:
    """By every client that there is; raises where one is refused."""
    database = Database(settings.require_database_url())
    assert database.now()
    database.dispose()
    with connect(settings.require_redis_url()) as redis:
        assert redis.ping()
    broker.install()
    told = broker_address.configuration(settings.require_broker_url())
    with kombu.Connection(told["broker_url"], transport_options=told["broker_transport_options"]) as connection:
        assert connection.default_channel.client.ping()


@pytest.mark.parametrize("password", PASSWORDS)
def test_any_password_opens_the_database_redis_and_the_broker(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    set_apart(servers, monkeypatch, password)
    with with_password(servers, password):
        get_in(load_settings())


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_completes_a_url_without_one_and_may_come_from_a_file(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, password: str
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    postgres, redis = make_url(servers.postgres.url), make_url(servers.redis.url)
    monkeypatch.setenv("REPRIEVE_DATABASE_URL", f"postgresql://reprieve@127.0.0.1:{postgres.port}/reprieve")
    monkeypatch.setenv("REPRIEVE_REDIS_URL", f"redis://na%2Fme@127.0.0.1:{redis.port}/0")
    for server in ("DATABASE", "REDIS"):
        monkeypatch.setenv(f"REPRIEVE_{server}_PASSWORD_FILE", str(file))
    with with_password(servers, password):
        get_in(load_settings())


@pytest.mark.parametrize("password", PASSWORDS)
def test_what_is_quoted_in_a_url_is_the_same_password(password: str) -> None:
    quoted = quote(password, safe="")
    settings = Settings.model_validate({"broker_url": "amqp://me@h/v", "broker_password": password})
    assert settings.require_broker_url() == f"amqp://me:{quoted}@h/v"
    assert Url.parse(settings.require_broker_url()).password == password


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"database_password": "s3cret-1"}, "REPRIEVE_DATABASE_PASSWORD is set, but neither REPRIEVE_DATABASE_URL nor"),
        (
            {"database_url": "postgresql://me:s3cret-1@h/d", "database_password": "s3cret-2"},
            "REPRIEVE_DATABASE_PASSWORD: is said by the URL as well",
        ),
        (
            {"redis_url": "redis://h/0", "redis_host": "s3cret-1"},
            "REPRIEVE_REDIS_HOST: is said by the URL as well",
        ),
        ({"redis_host": "h", "redis_port": "s3cret-1"}, "REPRIEVE_REDIS_PORT: must be a port"),
        ({"broker_host": "h", "broker_port": "65536"}, "REPRIEVE_BROKER_PORT: must be a port"),
    ],
)
def test_what_two_settings_say_and_what_nobody_says_is_refused_without_its_value(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str
) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(f"REPRIEVE_{name}", "")
    with pytest.raises(SettingsError) as refused:
        load_settings(**given)
    assert told in str(refused.value)
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))


def test_a_secret_is_given_once_and_its_file_must_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text("\n")
    for file, told in {
        "binary": "not UTF-8",
        "empty": "is empty",
        "gone": "No such file",
        ".": "Is a directory",
    }.items():
        monkeypatch.setenv("REPRIEVE_FLOWER_PASSWORD_FILE", str(tmp_path / file))
        with pytest.raises(SettingsError, match=f"REPRIEVE_FLOWER_PASSWORD_FILE names a file .*{told}"):
            load_settings()
    monkeypatch.setenv("REPRIEVE_FLOWER_PASSWORD", "1")
    with pytest.raises(SettingsError, match=r"REPRIEVE_FLOWER_PASSWORD_FILE and REPRIEVE_FLOWER_PASSWORD are both set"):
        load_settings()


# -- nothing of it is shown

RAW = ["postgresql://me:{}@h/d", "postgresql://{}:x@h/d", "postgresql+psycopg2://me:{}@[::1]:5432/d?sslmode=require"]
RAW_OF_REDIS = ["redis://:{}@h:6379/0", "rediss://{}@h/0", "sentinel://:{}@a:1,b:2/0?master=m", "unix://{}@/s.sock"]
UNQUOTED = ["abc/def+ghi", "abc@def", "abc#def", "abc?def", "abc%def", "abc:/def", "abc]/[def", "abc@1:def/xyz@h:99999"]


def shows(told: str, password: str) -> list[str]:
    """The parts of a password that are in a text, of three characters or more; those of the sentences are none."""
    return [part for part in re.split(r"\W+", password) if len(part) >= 3 and part in told]


@pytest.mark.parametrize("password", UNQUOTED)
@pytest.mark.parametrize(
    ("setting", "url"),
    [
        *(("DATABASE_URL", url) for url in RAW),
        *(("REDIS_URL", url) for url in RAW_OF_REDIS),
        *(("BROKER_URL", url) for url in (*RAW_OF_REDIS[:3], "amqp://me:{}@h//", "amqps://me:{}@h//", "sqs://key:{}@")),
    ],
)
def test_no_error_of_a_url_that_holds_a_raw_password_shows_a_part_of_it(
    monkeypatch: pytest.MonkeyPatch, setting: str, url: str, password: str
) -> None:
    monkeypatch.setenv(f"REPRIEVE_{setting}", url.format(password))
    try:
        settings = load_settings()
    except SettingsError as refused:
        told = "".join(traceback.format_exception(refused))
        assert f"REPRIEVE_{setting}: " in told
        assert "by itself" in told or "must name a socket" in told or "port" in told
        assert shows(told, password) == []
    else:
        # What can be read in one way only is taken as it stands.
        read = getattr(settings, setting.lower())
        assert shows(f"{settings!r} {settings} {Url.parse(read.get_secret_value())!r}", password) == []


@pytest.mark.parametrize("command", ["ps", "doctor"])
def test_no_command_shows_a_part_of_a_password_of_a_server_that_is_not_there(command: str, tmp_path: Path) -> None:
    password = PASSWORDS[1]
    environment = {
        "PATH": os.environ["PATH"],
        "REPRIEVE_DATA_DIR": str(tmp_path),
        **{f"REPRIEVE_{server}_HOST": "127.0.0.1" for server in ("DATABASE", "REDIS")},
        **{f"REPRIEVE_{server}_PORT": str(choose_port()) for server in ("DATABASE", "REDIS")},
        **{f"REPRIEVE_{server}_PASSWORD": password for server in ("DATABASE", "REDIS")},
        "REPRIEVE_DATABASE_USER": "me",
    }
    done = run_command([REPRIEVE, command], env=environment, text=True)
    assert done.returncode in (1, 2)
    assert shows(done.stdout + done.stderr, password) == []
    assert "Traceback" not in done.stderr


def test_neither_the_log_nor_the_command_line_of_a_worker_shows_a_part_of_its_passwords(
    services: Services, servers: Servers, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    password = PASSWORDS[1]
    set_apart(servers, monkeypatch, password)
    with with_password(servers, password):
        worker = start_worker(forked=False)
        process = psutil.Process(worker.pid)
        lines = [" ".join(one.cmdline()) for one in (process, *process.children(recursive=True))]
        assert shows(worker.output + "".join(lines), password) == []


# -- the compose file


def test_the_compose_file_keeps_passwords_out_of_urls_and_of_command_lines() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for service in compose["services"].values():
        holding = {name: value for name, value in service.get("environment", {}).items() if "PASSWORD" in name}
        assert all(name.endswith("PASSWORD_FILE") for name in holding)
        assert all(value.startswith("/run/secrets/") for value in holding.values())
        told = yaml.safe_dump([service.get("command", ""), service.get("healthcheck", "")])
        assert re.findall(r"\$\{\w*PASSWORD", told) == []


@pytest.mark.parametrize("password", [one for one in PASSWORDS if one.isascii()])
def test_the_redis_of_the_compose_file_takes_any_password(
    password: str, tmp_path: Path, redis_of_compose: Callable[[str], int]
) -> None:
    with Redis(port=redis_of_compose(password), password=password) as client:
        assert client.ping()


@pytest.fixture
def redis_of_compose(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Starts the Redis of the compose file, by its own command, on a port of loopback."""
    started: list[Process] = []

    def start(password: str) -> int:
        port = choose_port()
        compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        shell, option, script = compose["services"]["redis"]["command"]
        secret = tmp_path / "secret"
        secret.write_text(f"{password}\n")
        script = script.replace("$$", "$").replace("/run/secrets/redis_password", str(secret))
        script = script.replace("exec redis-server -", f"exec {find_program()} - --port {port} --dir {tmp_path}")
        process = spawn("redis", [shell, option, script], {}, tmp_path, cwd=tmp_path)
        started.append(process)
        process.wait_for("eady to accept connections")
        return port

    yield start
    for process in started:
        process.stop(timeout=0)
