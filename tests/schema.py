"""Schemathesis against a whole Reprieve: does the API answer every request as its own document says it does?

python -m tests.schema [--minutes 10]; `make test-schema`. No worker of runs is there: what Schemathesis makes up as a
command is asked for, and not run. Two checks are left out, for the config of a run has the schema of its adapter, which
the document cannot name: what is refused there (`positive_data_acceptance`) and taken (`negative_data_rejection`). So
is the live stream, which does not end; tests/api/test_live.py has it.

Then the reports of remote work, with a run's own token and the number that is wanted, so that what is made up
is stored: there must be no 5xx, and no log that cannot be read, or closed.
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

from reprieve.models.closing import Closing
from reprieve.models.work import End, Outcome
from reprieve.stores.database import Database
from reprieve.stores.embedded.address import choose_port
from reprieve.stores.migrate import migrate
from reprieve.workers import bootstrap
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.finish import finish as end_runs
from reprieve.workers.settings import load_settings
from tests.support.fleet import Fleet
from tests.support.processes import spawn
from tests.support.remote import remote_with_token
from tests.support.waiting import answers, eventually

PROGRAMS = Path(sys.executable).parent
LEFT_OUT = "positive_data_acceptance,negative_data_rejection"

#: What the fields of a chunk are tried with: what is taken, and what is not.
STREAMS = ("stdout", "s", "s" * 32, "s" * 33, "", "a/b", "a\0b", "\ud800", "Ünicode", 7, None)
TIMES = (None, 0, -1, 1, 253_402_300_799_999, 253_402_300_800_000, 2**63 - 1, 2**64, -(2**63), 1.5, "now", True)
DATA = ("", "eA==", "AA==", "gICA", "x", "eA", "/w==" * 3, "e" * 65_536, None, 5)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schema", description="Schemathesis against the API.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Asked to end, it ends what it started.
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="schema-", ignore_cleanup_errors=True)))
        token = secrets.token_hex(16)
        url, services = _serve(folder, ending, token)
        seconds = int(options.minutes * 60 / 4)  # There are four runs of it.
        command = [PROGRAMS / "st", "run", f"{url}/openapi.json", "--continue-on-failure", "--request-timeout", "30"]
        command += ["--max-time", str(seconds), "--checks", "all", "--exclude-checks", LEFT_OUT]
        command += ["--seed", str(options.seed)] if options.seed else []
        bearer = ["-H", f"Authorization: Bearer {token}"]
        left_out = ["--exclude-path", "/v1/runs/{run_id}/log/live"]
        failed = subprocess.run([*command, *bearer, *left_out], cwd=folder).returncode
        problems = _report(services, url, token, command, folder)
        for problem in problems:
            print(f"WRONG: {problem}")
        return failed or bool(problems)


def _report(services: Services, url: str, token: str, command: list[str | Path], folder: Path) -> list[str]:
    """Have Schemathesis report for runs of remote work; what is wrong with them, and with their logs, afterwards."""
    problems = []
    for operation in ("output", "heartbeat", "finish"):
        work, own = remote_with_token(services)
        # The run is given: a run that is made up is nobody's. `first_seq` is what its next report has to begin with.
        (folder / "schemathesis.toml").write_text(f'[parameters]\n"path.run_id" = "{work.run_id}"\n')
        only = ["--include-path-regex", f"/v1/runs/.*/{operation}$", "-H", f"Authorization: Bearer {own}"]
        if subprocess.run([*command, *only], cwd=folder).returncode:
            problems.append(f"the reports of {operation}")
        problems += _extremes(url, work.run_id, own)
        end_runs(services, [End.by_result(work.fence, Outcome(), services.logs.last_seq(work.run_id, 1))])
        problems += _unreadable(url, token, work.run_id)
        if close_log(services, work.run_id, 1) is not Closing.DONE:
            problems.append(f"the log of {work.run_id} is not closed")
        problems += _unreadable(url, token, work.run_id)
    return problems


def _extremes(url: str, run_id: UUID, own: str) -> list[str]:
    """Each field of a chunk at its extremes, under the number that is wanted."""
    problems, wanted = [], 1
    for stream, at, data in product(STREAMS, TIMES, DATA):
        chunk = {"stream": stream, "data": data} | ({} if at is None else {"at": at})
        status, answer = _ask(f"{url}/v1/runs/{run_id}/output", own, {"first_seq": wanted, "chunks": [chunk]})
        if status >= 500:
            problems.append(f"{status} for {str(chunk)[:200]}")
        if status == 200 and answer["next_seq"] != wanted:
            wanted = answer["next_seq"]
    return problems if wanted > 1 else [*problems, "no report was taken"]


def _unreadable(url: str, token: str, run_id: UUID) -> list[str]:
    """What of a run and its log cannot be read."""
    paths = ("", "/log", "/events", "/explain", "/attempts/1/log.ndjson", "/attempts/1/output/stdout")
    answers_of = {path: _ask(f"{url}/v1/runs/{run_id}{path}", token)[0] for path in paths}
    return [f"{status} for {path or 'the run'} of {run_id}" for path, status in answers_of.items() if status != 200]


def _ask(url: str, token: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
            said = answer.read()
            return answer.status, json.loads(said) if body is not None else said
    except urllib.error.HTTPError as error:
        return error.code, {}


def _serve(folder: Path, ending: ExitStack, token: str) -> tuple[str, Services]:
    """Servers, the reaper and an API that is ready: its address, and services of our own on the same servers."""
    port = choose_port()
    extra = {"REPRIEVE_API_ADDRESS": f"127.0.0.1:{port}", "REPRIEVE_API_TOKENS": f"admin={token}"}
    fleet = Fleet(folder, ending, time_scale=1, extra=extra)
    database = Database(fleet.postgres.url)
    migrate(database)
    database.dispose()
    fleet.start("logs,control,archive")
    fleet.start_beat()
    api = spawn("api", [str(PROGRAMS / "reprieve"), "start", "api"], {**os.environ, **fleet.environment}, folder)
    ending.callback(api.stop)
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: answers(f"{url}/health/ready"), timeout=120, interval=0.5, what=lambda: api.output)
    ending.enter_context(patch.dict(os.environ, fleet.environment))
    services = bootstrap.build(load_settings())
    bootstrap.use(services)
    ending.callback(bootstrap.use, None)
    return url, services


if __name__ == "__main__":
    sys.exit(main())
