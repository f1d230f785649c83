"""What is asked of a machine on which Reprieve runs: its units, its runs, its journal."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from tests.support.waiting import eventually
from tests.systemd.machine import Machine
from tests.systemd.page import commands

#: Redis of Debian with the password that the page has made, a token for us, and a window of 100 seconds, before the
#: machine is switched on.
SERVERS = """
echo REPRIEVE_TIME_SCALE=3 >> /etc/reprieve/environment
printf 'requirepass %s\\n' "$(cat /etc/reprieve/credentials/REDIS_PASSWORD)" >> /etc/redis/redis.conf
printf 'admin=%s\\n' "$(openssl rand -hex 16)" > /etc/reprieve/credentials/API_TOKENS
chmod 600 /etc/reprieve/credentials/API_TOKENS
"""
DATABASE = """
cd /
su postgres -c "psql -q" <<SQL
CREATE ROLE reprieve LOGIN PASSWORD '$(cat /etc/reprieve/credentials/DATABASE_PASSWORD)';
CREATE DATABASE reprieve OWNER reprieve;
SQL
"""
ROLES = ("worker-runs", "worker-logs", "worker-archive", "worker-control", "beat", "api", "flower")
#: How it is seen that a role works, where it has no pulse.
ANSWERS = {
    "api": "curl -fsS -o /dev/null http://127.0.0.1:8000/health/live",
    "flower": 'curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:5555 | grep -qE "200|401"',
}
#: Prints so many lines, one each tenth of a second.
COUNT = "for each in $(seq 1 {}); do echo line $each; sleep 0.1; done"


def curl(path: str) -> str:
    """The command that asks the API."""
    token = "$(cut -d= -f2 /etc/reprieve/credentials/API_TOKENS)"
    return f'curl -sS -H "Authorization: Bearer {token}" {shlex.quote(f"http://127.0.0.1:8000{path}")}'


class Host:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run, self.said, self.eventually = machine.run, machine.said, machine.eventually

    def begin(self) -> None:
        """Make a database, and start everything as the page says."""
        self.run(DATABASE)
        self.run(commands("Start"), timeout=300)
        self.wait_until_green()

    def wait_until_green(self, roles: Sequence[str] = ROLES, timeout: float = 300) -> None:
        for role in roles:
            unit = f"reprieve@{role}"
            pulse = f"test -n \"$(find /run/{unit}/pulse -newermt '-60 seconds' 2> /dev/null)\""
            self.eventually(f"systemctl is-active -q {unit} && {ANSWERS.get(role, pulse)}", timeout)

    # -- runs

    def ask(self, path: str, body: object = None) -> Any:
        """What the API answers."""
        more = f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}" if body is not None else ""
        return json.loads(self.said(f"{curl(path)} {more}"))

    def start(self, script: str, adapter: str = "detached", **more: object) -> str:
        """Ask for a run of a script; returns its id."""
        asked = {"adapter": adapter, "config": {"command": ["sh", "-c", script]}, **more}
        return str(self.ask("/v1/runs", asked)["id"])

    def status(self, run: str) -> str:
        return str(self.ask(f"/v1/runs/{run}")["status"])

    def wait_for(self, run: str, *statuses: str, timeout: float = 180) -> dict[str, Any]:
        """Wait until a run is in one of these states, ended by default; returns it."""
        wanted = statuses or ("succeeded", "failed", "cancelled")
        eventually(lambda: self.status(run) in wanted, timeout=timeout, interval=0.5, what=lambda: self.explained(run))
        found: dict[str, Any] = self.ask(f"/v1/runs/{run}")
        return found

    def wait_for_output(self, run: str, text: str, timeout: float = 120) -> None:
        self.eventually(f"{curl(f'/v1/runs/{run}/attempts/1/output/stdout')} | grep -qF {shlex.quote(text)}", timeout)

    def explained(self, run: str) -> str:
        return json.dumps(self.ask(f"/v1/runs/{run}/explain"), indent=1)[:4000]

    def output(self, run: str, attempt: int = 1) -> str:
        """All that an attempt has printed, when its log is whole."""
        return self.run(f"{curl(f'/v1/runs/{run}/attempts/{attempt}/output/stdout')} --fail").output

    def reprieve(self, *words: str, check: bool = True) -> str:
        """What a command of Reprieve says there, as root asks for it."""
        return self.run(f"reprieve {shlex.join(words)} 2>&1", check=check).output.strip()

    # -- units

    def show(self, unit: str, name: str) -> str:
        return self.said(f"systemctl show -P {name} {unit}")

    def main_pid(self, role: str) -> str:
        return self.show(f"reprieve@{role}", "MainPID")

    def journal(self, unit: str) -> str:
        """What a unit, and systemd of it, has said since the machine was switched on."""
        return self.said(f"journalctl --quiet --no-pager --boot --output=cat --unit={unit} | tail -n 400")
