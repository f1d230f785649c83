"""The settings: what is accepted, and that a refusal names the setting and never a password."""

import os
from pathlib import Path

import pytest

from reprieve.models.errors import SettingsError
from reprieve.models.liveness import Timing
from reprieve.stores.addresses import write_addresses
from reprieve.stores.database import Database
from reprieve.workers.current import resolve_settings
from reprieve.workers.settings import load_settings

PASSWORD = "hunter2"
DATABASE = f"postgresql://me:{PASSWORD}@db.example/reprieve"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing set, no `.env`, and a data folder of the test's own; sets variables without the prefix's noise."""
    for name in [name for name in os.environ if name.upper().startswith("REPRIEVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRIEVE_DATA_DIR", str(tmp_path / "data"))
    return monkeypatch


def refusal() -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value)


# -- what is accepted


def test_without_any_setting_the_real_timings_hold_and_this_host_has_its_name(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("REPRIEVE_DATA_DIR")
    settings = load_settings()
    assert (settings.timing, settings.node_name, settings.host_name) == (Timing(), None, os.uname().nodename)
    assert settings.data_dir.is_absolute()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_way_of_writing_a_postgresql_address_is_taken(environment: pytest.MonkeyPatch, scheme: str) -> None:
    environment.setenv("REPRIEVE_DATABASE_URL", f"{scheme}://me@db/x")
    assert load_settings().require_database_url() == "postgresql+psycopg2://me@db/x"


@pytest.mark.parametrize("there", ["", "?search_path=%22Our+jobs%22"])
def test_a_schema_is_named_by_a_setting_and_may_be_named_by_the_url_too(
    environment: pytest.MonkeyPatch, there: str
) -> None:
    environment.setenv("REPRIEVE_DATABASE_URL", f"postgresql://me@db/x{there}")
    environment.setenv("REPRIEVE_DATABASE_SCHEMA", "Our jobs")
    assert Database(load_settings().require_database_url()).schema == "Our jobs"


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h:1/0", "unix:///run/redis.sock"])
def test_every_way_of_reaching_redis_is_taken_and_is_the_broker_too(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("REPRIEVE_REDIS_URL", url)
    settings = load_settings()
    assert settings.require_redis_url() == settings.require_broker_url() == url


def test_another_broker_may_be_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPRIEVE_REDIS_URL", "redis://h")
    environment.setenv("REPRIEVE_BROKER_URL", "amqp://rabbit")
    assert load_settings().require_broker_url() == "amqp://rabbit"


@pytest.mark.parametrize(("given", "taken"), [("~/x", Path.home() / "x"), ("here", "here")])
def test_the_data_folder_becomes_an_absolute_path(environment: pytest.MonkeyPatch, given: str, taken: Path) -> None:
    environment.setenv("REPRIEVE_DATA_DIR", given)
    assert load_settings().data_dir == Path.cwd() / taken


def test_a_time_scale_makes_the_whole_system_faster(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPRIEVE_TIME_SCALE", "30")
    assert load_settings().timing == Timing.scaled(30)


def test_settings_are_read_from_a_file_beside_us_and_the_environment_wins(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("REPRIEVE_NODE_NAME=from-file\nREPRIEVE_TIME_SCALE=2\n")
    environment.setenv("REPRIEVE_TIME_SCALE", "3")
    settings = load_settings()
    assert (settings.node_name, settings.time_scale) == ("from-file", 3)


# -- the servers of `reprieve up`


def test_the_servers_that_run_on_the_data_folder_stand_in_for_what_is_not_set(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    write_addresses(tmp_path / "data", "postgresql+psycopg2://embedded/x", "redis://embedded")
    environment.setenv("REPRIEVE_REDIS_URL", "redis://mine")
    settings = resolve_settings()
    assert settings.require_database_url() == "postgresql+psycopg2://embedded/x"
    assert settings.require_redis_url() == "redis://mine"


def test_a_schema_that_is_asked_for_is_that_of_the_servers_that_run_or_is_refused(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    write_addresses(tmp_path / "data", "postgresql+psycopg2://embedded/x?search_path=%22ours%22", None)
    assert Database(resolve_settings().require_database_url()).schema == "ours"
    environment.setenv("REPRIEVE_DATABASE_SCHEMA", "ours")
    assert Database(resolve_settings().require_database_url()).schema == "ours"
    environment.setenv("REPRIEVE_DATABASE_SCHEMA", "theirs")
    with pytest.raises(SettingsError, match="DATABASE_URL: names another schema than REPRIEVE_DATABASE_SCHEMA"):
        resolve_settings()


@pytest.mark.parametrize(
    ("required", "name"),
    [("require_database_url", "DATABASE_URL"), ("require_redis_url", "REDIS_URL"), ("require_broker_url", "REDIS_URL")],
)
def test_a_missing_address_is_named_with_what_would_do(required: str, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"REPRIEVE_{name} is not set.*`reprieve up`.*for example"):
        getattr(resolve_settings(), required)()


# -- what is refused


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("REPRIEVE_DATABASE_URL", f"mysql://me:{PASSWORD}@h/x", "must begin with postgresql://"),
        ("REPRIEVE_DATABASE_URL", f"postgresql+asyncpg://me:{PASSWORD}@h/x", "must begin with postgresql://"),
        (
            "REPRIEVE_REDIS_URL",
            f"amqp://me:{PASSWORD}@h",
            "must begin with redis://, rediss://, unix://, sentinel:// or sentinels://",
        ),
        ("REPRIEVE_TIME_SCALE", "fast", "valid integer"),
        ("REPRIEVE_TIME_SCALE", "1.5", "valid integer"),
        ("REPRIEVE_TIME_SCALE", "7", "Use a divisor of 60 up to 30"),
        ("REPRIEVE_TIME_SCALE", "60", "Use a divisor of 60 up to 30"),
        ("REPRIEVE_TIME_SCALE", "0", "use 1 or more"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_with_what_would_do(
    environment: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    environment.setenv(name, value)
    text = refusal()
    assert words in text
    assert PASSWORD not in text
    assert name in text


@pytest.mark.parametrize("name", ["x" * 64, "é" * 32, "pg_ours", "information_schema", "$user", "a,b"])
def test_a_schema_that_cannot_be_ours_is_named_with_what_would_do(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv("REPRIEVE_DATABASE_SCHEMA", name)
    for url in ("", DATABASE):
        environment.setenv("REPRIEVE_DATABASE_URL", url)
        assert "REPRIEVE_DATABASE_SCHEMA: cannot be a schema of Reprieve's: give a name of 63 bytes" in refusal()


def test_every_mistake_is_told_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPRIEVE_DATABASE_URL", "mysql://x")
    environment.setenv("REPRIEVE_REDIS_URL", "http://x")
    text = refusal()
    assert "REPRIEVE_DATABASE_URL" in text
    assert "REPRIEVE_REDIS_URL" in text


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("REPRIEVE_DATABSE_URL", "REPRIEVE_DATABASE_URL"),
        ("REPRIEVE_REDIS_ULR", "REPRIEVE_REDIS_URL"),
        ("REPRIEVE_NODENAME", "REPRIEVE_NODE_NAME"),
        ("REPRIEVE_TIMESCALE", "REPRIEVE_TIME_SCALE"),
        ("REPRIEVE_DATADIR", "REPRIEVE_DATA_DIR"),
    ],
)
def test_a_misspelt_setting_is_refused_with_what_was_meant(
    environment: pytest.MonkeyPatch, misspelt: str, meant: str
) -> None:
    environment.setenv(misspelt, PASSWORD)
    assert refusal() == f"{misspelt} is no setting; did you mean {meant}?"


@pytest.mark.parametrize("service", ["REPRIEVE", "REPRIEVE_REDIS", "REPRIEVE_DATABASE", "REPRIEVE_BROKER"])
@pytest.mark.parametrize(
    "suffix", ["SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_6379_TCP", "PORT_6379_TCP_PROTO", "PORT_6379_TCP_ADDR"]
)
def test_what_kubernetes_sets_for_a_service_of_our_name_is_left_alone(
    environment: pytest.MonkeyPatch, service: str, suffix: str
) -> None:
    environment.setenv(f"{service}_{suffix}", "tcp://10.0.0.1:6379")
    assert load_settings().redis_url is None


@pytest.mark.parametrize("name", ["REPRIEVE_RUN_ID", "REPRIEVE_ATTEMPT", "PGPASSWORD", "XREPRIEVE_DATABSE_URL"])
def test_a_name_that_resembles_no_setting_is_left_alone(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "1")
    assert load_settings().time_scale == 1


# -- secrets


def test_no_password_shows_in_the_settings(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPRIEVE_DATABASE_URL", DATABASE)
    environment.setenv("REPRIEVE_REDIS_URL", f"redis://:{PASSWORD}@h")
    environment.setenv("REPRIEVE_BROKER_URL", f"amqp://me:{PASSWORD}@h")
    environment.setenv("REPRIEVE_FLOWER_PASSWORD", PASSWORD)
    settings = load_settings()
    assert PASSWORD in settings.require_database_url()
    assert PASSWORD not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_no_password_of_an_embedded_server_shows_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_addresses(tmp_path / "data", DATABASE, f"redis://:{PASSWORD}@h")
    settings = resolve_settings()
    assert PASSWORD in settings.require_redis_url()
    assert PASSWORD not in f"{settings!r} {settings}"


# -- credentials of systemd


@pytest.fixture
def credentials(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder in which systemd puts them."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    environment.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_a_credential_with_our_prefix_is_the_secret_of_that_name_without_the_newline_at_its_end(
    environment: pytest.MonkeyPatch, credentials: Path
) -> None:
    environment.setenv("REPRIEVE_DATABASE_HOST", "db")
    (credentials / "REPRIEVE_DATABASE_PASSWORD").write_text(f"{PASSWORD}\n")
    (credentials / "SOMEBODY_ELSES").write_bytes(b"\xff")
    assert load_settings().require_database_url() == f"postgresql+psycopg2://:{PASSWORD}@db/"


def test_a_secret_in_the_environment_and_as_a_credential_is_refused(
    environment: pytest.MonkeyPatch, credentials: Path
) -> None:
    environment.setenv("REPRIEVE_REDIS_PASSWORD", PASSWORD)
    (credentials / "REPRIEVE_REDIS_PASSWORD").write_text(PASSWORD)
    assert refusal().startswith("REPRIEVE_REDIS_PASSWORD_FILE and REPRIEVE_REDIS_PASSWORD are both set")


@pytest.mark.parametrize("name", ["REPRIEVE_DATABASE_PASWORD", "REPRIEVE_REPRIEVE_DATABASE_PASSWORD"])
def test_a_credential_that_is_misspelt_is_refused(credentials: Path, name: str) -> None:
    (credentials / name).write_text(PASSWORD)
    assert "REPRIEVE_DATABASE_PASSWORD_FILE?" in refusal()


def test_a_folder_of_credentials_that_is_gone_with_its_unit_gives_none(credentials: Path) -> None:
    credentials.rmdir()
    assert load_settings().database_url is None


def test_a_folder_of_credentials_that_cannot_be_read_is_named(credentials: Path) -> None:
    credentials.rmdir()
    credentials.touch()
    said = "CREDENTIALS_DIRECTORY names a folder that cannot be read (Not a directory)"
    assert refusal() == f"{said}: {credentials}."
