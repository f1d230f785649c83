"""A command imports what it needs when it is called: what tells about commands needs none of it."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("reprieve")

#: What takes long to import, with what it brings; and what only the server's parts need. Not Pydantic: Typer checks
#: arguments with it.
HEAVY = {
    *("alembic", "celery", "fastapi", "httpx2", "kombu", "obstore", "opentelemetry", "prometheus_client", "psutil"),
    *("sqlalchemy", "uvicorn"),
}
#: What only a command needs that is carried out.
OF_SERVERS = {"psycopg2", "pydantic_settings", "redis"}


def imported_by(arguments: Sequence[str], env: Mapping[str, str] = {}) -> set[str]:
    """The packages that a call of `reprieve` imports, by their names."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", PROGRAM, *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    named = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.M)
    assert "reprieve.cli.main" in named, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return {name.partition(".")[0] for name in named}


COMPLETION = {"_REPRIEVE_COMPLETE": "complete_bash", "COMP_WORDS": "reprieve do", "COMP_CWORD": "1"}


def test_the_help_and_the_version_are_told_by_typer_alone() -> None:
    for option in ("--help", "--version"):
        assert imported_by([option]) & {*HEAVY, *OF_SERVERS, "pydantic", "rich"} == set()


@pytest.mark.parametrize(
    ("arguments", "env"),
    [(["ps", "--help"], {}), (["doktor"], {}), (["ps", "--status", "well"], {}), ([], COMPLETION)],
    ids=["help", "no such command", "no such value", "completion"],
)
def test_a_command_that_is_not_carried_out_imports_nothing_for_it(arguments: list[str], env: dict[str, str]) -> None:
    assert imported_by(arguments, env) & {*HEAVY, *OF_SERVERS, "rich"} == set()


def test_runs_are_started_and_listed_by_the_clients_of_the_servers_alone(environment: dict[str, str]) -> None:
    with_redis = {"redis", "psutil", "opentelemetry"}  # The first brings the second; a run is a span of its caller's.
    assert imported_by(["run", "--", "true"], environment) & {*HEAVY, "rich"} - with_redis == set()
    assert imported_by(["ps", "--json"], environment) & {*HEAVY, "redis", "rich"} == set()
    assert imported_by(["ps"], environment) & {*HEAVY, "redis"} == set()
