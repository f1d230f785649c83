"""Schemathesis against a whole Reprieve: does the API answer every request as its own document says it does?

python -m tests.schema [--minutes 10]; `make test-schema`. No worker of runs is there: what Schemathesis makes up as a
command is asked for, and not run. Two checks are left out, for the config of a run has the schema of its adapter, which
the document cannot name: what is refused there (`positive_data_acceptance`) and taken (`negative_data_rejection`). So
is the live stream, which does not end; tests/api/test_live.py has it.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from stores.database import Database
from stores.embedded.address import choose_port
from stores.migrate import migrate
from tests.support.fleet import Fleet
from tests.support.processes import spawn
from tests.support.waiting import answers, eventually

PROGRAMS = Path(sys.executable).parent
LEFT_OUT = "positive_data_acceptance,negative_data_rejection"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schema", description="Schemathesis against the API.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Asked to end, it ends what it started.
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="schema-", ignore_cleanup_errors=True)))
        token = secrets.token_hex(16)
        url = _serve(folder, ending, token)
        command = [PROGRAMS / "st", "run", f"{url}/openapi.json", "--max-time", str(int(options.minutes * 60))]
        command += ["--checks", "all", "--exclude-checks", LEFT_OUT, "--exclude-path", "/v1/runs/{run_id}/log/live"]
        command += ["-H", f"Authorization: Bearer {token}", "--continue-on-failure", "--request-timeout", "30"]
        command += ["--seed", str(options.seed)] if options.seed else []
        return subprocess.run(command, cwd=folder).returncode


def _serve(folder: Path, ending: ExitStack, token: str) -> str:
    """Servers, the reaper and an API that is ready; its address."""
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
    return url


if __name__ == "__main__":
    sys.exit(main())
