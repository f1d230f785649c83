"""The settings: one class, read from the environment (prefix `REPRIEVE_`) and from `.env`, validated once.

Timings are not settings. `REPRIEVE_TIME_SCALE` divides all of them together, for tests and the demo. One class that
holds each setting with its check and its description is longer than other files; where the values come from is in
`environment.py`, and how a server's parts make a URL in `servers.py`.
"""

import re
import socket
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from reprieve.models.access import OUR_PATHS, Scope, is_root_path, networks_of
from reprieve.models.capacity import SPOOL_BYTES
from reprieve.models.errors import InvalidRequest, SettingsError, TimingRefused
from reprieve.models.lanes import served
from reprieve.models.liveness import Timing
from reprieve.models.nodes import LONGEST_NAME, as_name, is_name
from reprieve.models.notices import Allowed, checked_secrets, checked_url
from reprieve.models.retention import RunRetention
from reprieve.stores import postgres_address, redis_address
from reprieve.stores.urls import Url
from reprieve.workers import broker_address
from reprieve.workers.environment import FILE, OWN_NAMES, PREFIX, given, refuse_misspelt, with_secrets_from_files
from reprieve.workers.servers import PARTS, SERVERS, completed, with_schema

#: HOST:PORT; an IPv6 address in brackets.
ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):\d{1,5}$"

#: Characters of a token that is long enough not to be guessed.
LEAST_TOKEN_LENGTH = 16

#: A scope, and the token that has it.
ApiTokenSetting = tuple[Scope, SecretStr]


def host_and_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 address loses its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _data_dir() -> Path:
    """The user's own; raises `SettingsError` where there is none."""
    folder = user_data_path("reprieve")
    if not folder.is_absolute():
        raise SettingsError(f"There is no home folder to keep data in: set {PREFIX}DATA_DIR to a folder.")
    return folder


class Settings(BaseSettings):
    """Where things are. Every field is `REPRIEVE_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: SecretStr | None = Field(default=None, description="PostgreSQL, as SQLAlchemy writes it.")
    database_host: str | None = Field(default=None, description="Instead of the URL: PostgreSQL's host,")
    database_port: str | None = Field(default=None, description="its port, 5432 by default,")
    database_name: str | None = Field(default=None, description="and the database. Each may complete a URL, too:")
    database_user: str | None = Field(default=None, description="who signs in there,")
    database_password: SecretStr | None = Field(
        default=None, description="and the password, as it is: nothing in it is quoted."
    )
    database_schema: str | None = Field(
        default=None,
        description="The schema that all tables are in, so that a service's own database can hold them; made by "
        "`reprieve migrate`. `public` by default.",
    )
    redis_url: SecretStr | None = Field(default=None, description="Redis for throttles, hints and live events.")
    redis_host: str | None = Field(default=None, description="Likewise: the host of that Redis,")
    redis_port: str | None = Field(default=None, description="its port, 6379 by default,")
    redis_name: str | None = Field(default=None, description="the number of its database, 0 by default,")
    redis_user: str | None = Field(default=None, description="who signs in there, if not the default user,")
    redis_password: SecretStr | None = Field(default=None, description="and the password.")
    broker_url: SecretStr | None = Field(default=None, description="Celery's broker; the Redis above by default.")
    broker_host: str | None = Field(default=None, description="Likewise: the host of a RabbitMQ,")
    broker_port: str | None = Field(default=None, description="its port, 5672 by default,")
    broker_name: str | None = Field(default=None, description="the virtual host, `/` by default,")
    broker_user: str | None = Field(default=None, description="who signs in there,")
    broker_password: SecretStr | None = Field(default=None, description="and the password.")
    data_dir: Path = Field(
        default_factory=_data_dir,
        description="Files of this host: spools, output of detached runs, the archive, and what `reprieve up` runs.",
    )
    node_name: str | None = Field(
        default=None,
        description="This host's name, kept with data_dir and unique among data folders; the host name, as it was when "
        "the folder was first used, by default.",
    )
    spool_bytes: int = Field(
        default=SPOOL_BYTES,
        ge=1024 * 1024,
        description="Bytes of output that may wait on a worker's disk for the store; beyond it, output waits.",
    )
    log_archive_url: str | None = Field(
        default=None,
        description="Where closed logs go, s3://bucket/prefix for example; a folder of data_dir by default.",
    )
    log_retention_days: float | None = Field(
        default=None,
        gt=0,
        le=36_500,
        description="Days after which the log of a finished run is removed; never by default.",
    )
    run_retention_days: Annotated[RunRetention | None, NoDecode] = Field(
        default=None,
        description="Days after which a finished run is removed with all that belongs to it, its log too; those of a "
        "lane, or of a pattern of lanes, after a comma (30,claude=7,tenant:*=90,audit=never); never by default.",
    )
    drain_seconds: float = Field(
        default=600,
        ge=0,
        le=30 * 86_400,
        description="Seconds that a worker which is asked to stop waits for in-process runs, before it ends them, and "
        "for detached ones that end with its container.",
    )
    ends_container: bool | None = Field(
        default=None,
        description="Whether the end of a worker of runs ends detached work with it, as that of a container's main "
        "process does; found out by default.",
    )
    lanes: Annotated[list[str] | None, NoDecode] = Field(
        default=None,
        description="The lanes whose runs this worker takes, with commas between them, for example gpu,tenant:*; all "
        "by default.",
    )
    time_scale: int = Field(default=1, description="Divides all timings: 1 in production; up to 30 to try things.")
    api_address: str = Field(
        default="127.0.0.1:8000",
        pattern=ADDRESS,
        description="HOST:PORT of the HTTP API.",
    )
    api_open: bool = Field(
        default=False,
        description="Whether requests of the API's own user on this machine need no token; for loopback only.",
    )
    api_tokens: Annotated[tuple[ApiTokenSetting, ...], NoDecode] = Field(
        default=(),
        description="Tokens of the HTTP API, SCOPE=TOKEN with commas between them; scopes are read, run and admin.",
    )
    api_root_path: str = Field(
        default="",
        description="The path below which a proxy has the API and the page, for example /reprieve; whether it takes "
        "that off or not.",
    )
    api_trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(),
        description="Addresses and networks, with commas between them, of proxies whose X-Forwarded-Proto, -Host, "
        "-Port, -Prefix and -For are believed.",
    )
    page_url: str | None = Field(
        default=None,
        description="Where people reach the page, for the links of notices; http://, api_address and api_root_path by "
        "default.",
    )
    notice_secret: SecretStr | None = Field(
        default=None,
        description="What notices are signed with, `whsec_…` of `reprieve notices secret`; several, with commas "
        "between them, while receivers change from one to the next.",
    )
    notice_allowed: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts, and networks, that notices may be sent to though they are not public, with commas between "
        "them: `hooks.internal,10.1.0.0/16`.",
    )
    ping_url: SecretStr | None = Field(
        default=None,
        description="An address that each healthy sweep asks for (GET), so that somebody else notices when none is.",
    )
    metrics_address: str | None = Field(
        default=None,
        pattern=ADDRESS,
        description="HOST:PORT at which a worker answers Prometheus; nowhere by default.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="What processes write of themselves: text for people, or json, a line each, with run and attempt.",
    )
    pulse_file: Path | None = Field(
        default=None,
        description="A file for `reprieve healthcheck`: workers and beat touch it while they turn, the API and Flower "
        "write into it where they answer; none by default.",
    )
    flower_password: SecretStr | None = Field(default=None, description="For Flower's user `reprieve`.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError:
            raise ValueError("begins with ~, and there is no such home folder; give the whole path") from None

    @field_validator("node_name")
    @classmethod
    def _can_be_shown(cls, value: str | None) -> str | None:
        if value is not None and not (is_name(value) and len(value) <= LONGEST_NAME - 8):
            raise ValueError("must be a name without spaces, of characters that can be shown")
        return value

    @model_validator(mode="before")
    @classmethod
    def _one_url_for_each_server(cls, given: Any) -> Any:
        """Merge the parts into their URLs, quoted: from here on there are URLs only."""
        if not isinstance(given, dict):
            return given
        whole = dict(given)
        for server in SERVERS:
            parts = {part: _plain(whole.pop(f"{server}_{part}", None)) for part in PARTS}
            if any(parts.values()):
                url = _plain(whole.get(f"{server}_url"))
                whole[f"{server}_url"] = SecretStr(completed(server, url, parts))
        url, schema = _plain(whole.get("database_url")), whole.get("database_schema")
        if url and schema:
            whole["database_url"] = SecretStr(with_schema(url, schema))
        return whole

    @field_validator("database_url")
    @classmethod
    def _for_psycopg2(cls, value: SecretStr | None) -> SecretStr | None:
        """Accept the schemes that other tools write; refuse other databases."""
        if value is None:
            return None
        url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", value.get_secret_value())
        if not url.startswith("postgresql+psycopg2://"):
            raise ValueError("must begin with postgresql:// (PostgreSQL by psycopg2 is the only database)")
        read = Url.parse(url)
        postgres_address.connect_arguments(read)
        return SecretStr(str(read))

    @field_validator("database_schema")
    @classmethod
    def _is_a_schema(cls, value: str | None) -> str | None:
        if value is not None and not postgres_address.can_be_ours(value):
            raise ValueError(f"cannot be a schema of Reprieve's: {postgres_address.A_SCHEMA}")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        known = tuple(f"{scheme}://" for scheme in redis_address.SCHEMES)
        if value is None:
            return None
        if not value.get_secret_value().startswith(known):
            raise ValueError(f"must begin with {', '.join(known[:-1])} or {known[-1]}")
        redis_address.checked(value.get_secret_value())
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            broker_address.configuration(value.get_secret_value())
        return value

    @field_validator("api_address", "metrics_address")
    @classmethod
    def _has_a_port(cls, value: str | None) -> str | None:
        if value is not None and not 0 < host_and_port(value)[1] < 65536:
            raise ValueError("has a port that is none: give one from 1 to 65535")
        return value

    @field_validator("log_archive_url")
    @classmethod
    def _is_an_object_store(cls, value: str | None) -> str | None:
        if value is not None:
            from reprieve.stores.objects import check_address  # Its libraries are for those who have an archive.

            check_address(value)
        return value

    @field_validator("api_tokens", mode="before")
    @classmethod
    def _scopes_and_tokens(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [one.strip().partition("=") for one in value.split(",") if one.strip()]
        for scope, _, token in pairs:
            if scope not in list(Scope) or len(token) < LEAST_TOKEN_LENGTH:
                raise ValueError(
                    f"must be SCOPE=TOKEN with commas between them: a scope ({', '.join(Scope)}), and a token of "
                    f"{LEAST_TOKEN_LENGTH} characters or more"
                )
        return tuple((Scope(scope), SecretStr(token)) for scope, _, token in pairs)

    @field_validator("api_root_path")
    @classmethod
    def _is_below_us(cls, value: str) -> str:
        path = value.rstrip("/")
        if path and not is_root_path(path):
            raise ValueError(
                "must be a path like /reprieve: letters, digits, . _ ~ -, and none of our own "
                f"({', '.join(sorted(OUR_PATHS))}) in it"
            )
        return path

    @field_validator("api_trusted_proxies", mode="before")
    @classmethod
    def _addresses_of_proxies(cls, value: object) -> object:
        try:
            return networks_of(value) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"must be addresses and networks, for example 10.0.0.5,10.1.0.0/16 ({error})") from None

    @field_validator("lanes", mode="before")
    @classmethod
    def _are_lanes(cls, value: object) -> object:
        try:
            return served(value) if isinstance(value, str) else value
        except InvalidRequest as refused:
            raise ValueError(str(refused)) from None

    @field_validator("run_retention_days", mode="before")
    @classmethod
    def _days_of_lanes(cls, value: object) -> object:
        return RunRetention.parse(value) if isinstance(value, str) else value

    @field_validator("notice_secret")
    @classmethod
    def _signs(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            checked_secrets(value.get_secret_value())
        return value

    @field_validator("notice_allowed", mode="before")
    @classmethod
    def _hosts_and_networks(cls, value: object) -> object:
        named = tuple(re.split(r"[\s,]+", value.strip())) if isinstance(value, str) else value
        if isinstance(named, tuple):
            Allowed.of(named)
        return named

    @field_validator("ping_url", "page_url")
    @classmethod
    def _is_an_address(cls, value: Any) -> Any:
        if value is not None:
            try:
                checked_url(_plain(value))
            except InvalidRequest:
                raise ValueError("must be of the form http(s)://HOST/…") from None
        return value

    @field_validator("time_scale")
    @classmethod
    def _timing_holds(cls, value: int) -> int:
        try:
            Timing.scaled(value)
        except TimingRefused as refused:
            raise ValueError(str(refused)) from None
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Given(settings_cls)

    @property
    def archive_url(self) -> str:
        return self.log_archive_url or (self.data_dir / "archive").as_uri()

    @property
    def link_to_page(self) -> str:
        return (self.page_url or f"http://{self.api_address}{self.api_root_path}").rstrip("/")

    @property
    def notice_secrets(self) -> tuple[str, ...]:
        return checked_secrets(self.notice_secret.get_secret_value()) if self.notice_secret else ()

    @property
    def notices_may_go_to(self) -> Allowed:
        return Allowed.of(self.notice_allowed)

    @property
    def host_name(self) -> str:
        """The configured name, else the host's own: the base of a node's name."""
        return self.node_name or as_name(socket.gethostname())

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def timing(self) -> Timing:
        return Timing.scaled(self.time_scale)

    def require_database_url(self) -> str:
        return _require(self.database_url, "DATABASE_URL", "postgresql://user:password@host/database")

    def require_redis_url(self) -> str:
        return _require(self.redis_url, "REDIS_URL", "redis://host:6379/0")

    def require_broker_url(self) -> str:
        return self.broker_url.get_secret_value() if self.broker_url else self.require_redis_url()


class _Given(PydanticBaseSettingsSource):
    """The environment, and before that the file `.env`: what has our prefix and is not empty, by the field's name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        found = given()
        refuse_misspelt(found, _known())
        return with_secrets_from_files(
            {name.removeprefix(PREFIX).lower(): value for name, value in found.items()}, _secret_files()
        )


def load_settings(**instead: Any) -> Settings:
    """The settings of this process; `instead` overrides them.

    Raises a `SettingsError` that names the setting and what would do.
    """
    try:
        return Settings(**instead)
    except ValidationError as error:
        problems = "; ".join(_problem(details["loc"], details["msg"]) for details in error.errors(include_input=False))
        raise SettingsError(problems) from None


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name = f"{PREFIX}{str(location[0]).upper()}: " if location else ""
    if ADDRESS in message:
        return f"{name}must be HOST:PORT; an IPv6 address in brackets"
    return name + message.removeprefix("Value error, ")


def unknown_names() -> list[str]:
    """Names with our prefix, in the environment or `.env`, that this version does not read."""
    return sorted(given().keys() - {*_known(), *OWN_NAMES})


def _known() -> list[str]:
    return [PREFIX + name.upper() for name in (*Settings.model_fields, *_secret_files())]


def _secret_files() -> list[str]:
    """The fields that hold one secret, each with `_file` behind it."""
    fields = Settings.model_fields.items()
    return [name + FILE for name, field in fields if field.annotation == SecretStr | None or name == "api_tokens"]


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _require(value: SecretStr | None, name: str, example: str) -> str:
    if value is None:
        raise SettingsError(
            f"{PREFIX}{name} is not set, and no `reprieve up` runs on this data folder. "
            f"Start `reprieve up`, or set it, for example to {example}."
        )
    return value.get_secret_value()
