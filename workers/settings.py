"""The settings: one class, read from the environment (prefix `REPRIEVE_`) and from `.env`, validated once.

Timings are not settings. `REPRIEVE_TIME_SCALE` divides all of them together, for tests and the demo.
"""

import difflib
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from adapters.spool import SPOOL_BYTES
from models.access import Scope
from models.errors import SettingsError, TimingRefused
from models.liveness import Timing
from models.nodes import LONGEST_NAME, as_name, is_name
from stores.sentinel import SCHEME as SENTINEL_SCHEME
from stores.sentinel import SentinelAddress

PREFIX = "REPRIEVE_"

#: What Kubernetes sets in every container for a service that is called `reprieve-…`.
_OF_A_SERVICE = re.compile(r"_(SERVICE|PORT)(_|$)")


#: HOST:PORT; an IPv6 address in brackets.
ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):\d{1,5}$"

#: Characters of a token that is long enough not to be guessed.
LEAST_TOKEN_LENGTH = 16

#: A scope, and the token that has it.
ApiTokenSetting = tuple[Scope, SecretStr]


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of an address of this form; an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Settings(BaseSettings):
    """Where things are. Every field is `REPRIEVE_` and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    database_url: SecretStr | None = Field(default=None, description="PostgreSQL, as SQLAlchemy writes it.")
    redis_url: SecretStr | None = Field(default=None, description="Redis for throttles, hints and live events.")
    broker_url: SecretStr | None = Field(default=None, description="Celery's broker; the Redis above by default.")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("reprieve"),
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
        default=None, gt=0, description="Days after which the log of a finished run is removed; never by default."
    )
    drain_seconds: float = Field(
        default=600,
        ge=0,
        description="Seconds that a worker which is asked to stop waits for in-process runs, before it ends them, and "
        "for detached ones that end with its container.",
    )
    ends_container: bool | None = Field(
        default=None,
        description="Whether the end of a worker of runs ends detached work with it, as that of a container's main "
        "process does; found out by default.",
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
        description="A file that a worker, or beat, touches while it turns, for health checks; none by default.",
    )
    flower_password: SecretStr | None = Field(default=None, description="For Flower's user `reprieve`.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("node_name")
    @classmethod
    def _can_be_shown(cls, value: str | None) -> str | None:
        if value is not None and not (is_name(value) and len(value) <= LONGEST_NAME - 8):
            raise ValueError("must be a name without spaces, of characters that can be shown")
        return value

    @field_validator("database_url")
    @classmethod
    def _for_psycopg2(cls, value: SecretStr | None) -> SecretStr | None:
        """Accept what other tools write, and say so when it is another database altogether."""
        if value is None:
            return None
        url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", value.get_secret_value())
        if not url.startswith("postgresql+psycopg2://"):
            raise ValueError("must begin with postgresql:// (PostgreSQL by psycopg2 is the only database)")
        return SecretStr(url)

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        known = ("redis://", "rediss://", "unix://", SENTINEL_SCHEME)
        if value is not None and not value.get_secret_value().startswith(known):
            raise ValueError(f"must begin with {', '.join(known[:-1])} or {known[-1]}")
        return value

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _names_a_master(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value().startswith(SENTINEL_SCHEME):
            SentinelAddress.parse(value.get_secret_value())
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

    @field_validator("time_scale")
    @classmethod
    def _timing_holds(cls, value: int) -> int:
        try:
            Timing.scaled(value)
        except TimingRefused as refused:
            raise ValueError(str(refused)) from None
        return value

    @property
    def archive_url(self) -> str:
        return self.log_archive_url or (self.data_dir / "archive").as_uri()

    @property
    def host_name(self) -> str:
        """The name that was asked for by hand, else what the host calls itself: the base of a node's name."""
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


def load_settings() -> Settings:
    """The settings of this process; raises `SettingsError` that names the setting and what would do."""
    _refuse_misspelt(os.environ)
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(_problem(details["loc"], details["msg"]) for details in error.errors())
        raise SettingsError(problems) from None


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name = f"{PREFIX}{str(location[0]).upper()}: " if location else ""
    return name + message.removeprefix("Value error, ")


def _refuse_misspelt(environment: os._Environ[str]) -> None:
    """A near miss is a mistake; other names may be anybody's."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for name in environment:
        if not name.startswith(PREFIX) or name in known or _OF_A_SERVICE.search(name):
            continue
        if near := difflib.get_close_matches(name, known, 1, 0.85):
            raise SettingsError(f"{name} is no setting; did you mean {near[0]}?")


def _require(value: SecretStr | None, name: str, example: str) -> str:
    if value is None:
        raise SettingsError(
            f"{PREFIX}{name} is not set, and no `reprieve up` runs on this data folder. "
            f"Start `reprieve up`, or set it, for example to {example}."
        )
    return value.get_secret_value()
