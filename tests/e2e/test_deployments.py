"""Compose and systemd without either of them: the files are valid, and what they start works as written."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from reprieve.adapters import cgroup
from reprieve.cli.roles import ROLES
from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.embedded.address import choose_port
from reprieve.workers.servers import PARTS, SERVERS
from reprieve.workers.settings import Settings
from tests.support.hostile import hostile_folder
from tests.support.processes import Process, spawn
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if ":-reprieve}" in service["image"]}
SYSTEMD = ROOT / "deploy" / "systemd"
STARTS = {name: ["reprieve", "start", name] for name in ROLES} | {"migrate": ["reprieve", "migrate"]}
KNOWN = {f"REPRIEVE_{name.upper()}{file}" for name in Settings.model_fields for file in ("", "_FILE")}

#: What the files hold that the compose file mounts; the servers are reached by URL here.
SECRETS = {
    "flower_password": "for-this-test",
    "api_tokens": "read=for-this-test-only",
    "notice_secret": f"whsec_{'QUFB' * 12}",
}

#: The setting, in seconds, that a worker of runs must have had time for before it is killed.
DRAIN = Settings.model_fields["drain_seconds"].default


# -- the files


def test_the_compose_file_is_one() -> None:
    command = [PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_a_unit_is_what_systemd_takes(tmp_path: Path) -> None:
    shutil.copytree(SYSTEMD, tmp_path, dirs_exist_ok=True)
    for unit in tmp_path.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/reprieve/bin", str(PROGRAMS)))
    units = [
        tmp_path / name for name in ("reprieve@worker-runs.service", "reprieve-migrate.service", "reprieve.target")
    ]
    shutil.copy(tmp_path / "reprieve@.service", units[0])
    drop_in = tmp_path / "reprieve@worker-runs.service.d" / "10-work.conf"
    # This needs systemd 254, and one before it goes on without; that program is where the page says to put it.
    drop_in.write_text(re.sub(r"DelegateSubgroup=.*|ExecStartPre=.*", "", drop_in.read_text()))
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_what_an_administrator_sets_of_the_worker_of_runs_counts(tmp_path: Path) -> None:
    """`systemctl edit` writes override.conf, and systemd reads drop-ins by their names, the last of which counts."""
    units, program = tmp_path / "etc/systemd/system", tmp_path / "opt/reprieve/bin/reprieve"
    shutil.copytree(SYSTEMD, units)
    program.parent.mkdir(parents=True)
    shutil.copy(shutil.which("true") or "", program)
    unit = "reprieve@worker-runs.service"
    (units / f"{unit}.d" / "override.conf").write_text("[Service]\nProtectHome=yes\n")
    command = ["systemd-analyze", "security", "--no-pager", "--offline=yes", f"--root={tmp_path}", unit]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert "Service has no access to home directories" in said


# -- what they say


def test_every_role_is_everywhere_with_the_same_command() -> None:
    assert {name: service["command"] for name, service in OURS.items()} == STARTS
    unit = (SYSTEMD / "reprieve@.service").read_text()
    assert "ExecStart=/opt/reprieve/bin/reprieve start %i\n" in unit
    assert set(re.findall(r"reprieve@([a-z-]+)", unit)) == set(ROLES)


def test_every_service_waits_for_the_migration() -> None:
    waiting = {name for name, service in OURS.items() if "migrate" in service["depends_on"]}
    assert waiting == set(ROLES)


def test_every_variable_is_a_setting_and_no_secret_has_a_value() -> None:
    for service in OURS.values():
        assert {name for name in service["environment"] if name.startswith("REPRIEVE_")} <= KNOWN
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"\$\{\w*(?:PASSWORD|TOKENS|SECRET)\b", text) == []
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    told = set(re.findall(r"REPRIEVE_\w+", (SYSTEMD / "reprieve@.service").read_text())) - {"REPRIEVE_"}
    assert {name for name in told if name.startswith("REPRIEVE_")} <= KNOWN
    assert not {name for name in told if name.endswith(("_URL", "PASSWORD", "TOKENS"))}


def test_what_is_published_is_published_on_loopback() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(re.match(r"\$\{\w+_BIND:-127\.0\.0\.1\}:", port) for port in published)


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_service_has_no_rights_and_its_log_has_an_end(name: str) -> None:
    service = COMPOSE["services"][name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    assert all("size=" in tmpfs for tmpfs in service["tmpfs"])
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert name in OURS or service["user"] == name, "ours are no root by the image"


def test_one_service_builds_the_image() -> None:
    assert [name for name, service in COMPOSE["services"].items() if "build" in service] == ["migrate"]


def test_a_worker_of_runs_has_longer_to_end_than_it_drains() -> None:
    minutes = re.fullmatch(r"(\d+)m", OURS["worker-runs"]["stop_grace_period"])
    assert minutes is not None
    assert int(minutes[1]) * 60 > DRAIN
    drop_in = (SYSTEMD / "reprieve@worker-runs.service.d" / "10-work.conf").read_text()
    assert "TimeoutStopSec=11min" in drop_in
    assert "KillMode=process" in drop_in, "work that outlives its worker is in the same control group"


def test_a_worker_of_runs_has_a_cgroup_to_divide_and_what_ends_a_run_for_memory_does_not_end_it() -> None:
    drop_in = (SYSTEMD / "reprieve@worker-runs.service.d" / "10-work.conf").read_text()
    assert {"Delegate=yes", f"DelegateSubgroup={cgroup.WORKERS}", "OOMPolicy=continue"} <= set(drop_in.splitlines())


def test_what_every_unit_narrows_is_taken_back_for_the_work_of_others() -> None:
    """But for what would give a run more rights than its worker has."""
    unit = (SYSTEMD / "reprieve@.service").read_text()
    drop_in = (SYSTEMD / "reprieve@worker-runs.service.d" / "10-work.conf").read_text()
    narrowed = re.findall(r"^(Private\w+|Protect\w+|Restrict\w+|SystemCallFilter|Lock\w+|Memory\w+|UMask)=", unit, re.M)
    assert [name for name in narrowed if not re.search(rf"^{name}=", drop_in, re.M)] == []
    assert "NoNewPrivileges" not in drop_in


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_is_no_root_and_writes_to_its_data_and_to_tmp_only(role: str) -> None:
    assert OURS[role]["read_only"] is True
    writable = [tmpfs.partition(":")[0] for tmpfs in OURS[role]["tmpfs"]]
    writable += [volume.partition(":")[2] for volume in OURS[role].get("volumes", [])]
    assert sorted(writable) == ["/data", "/tmp"]
    assert "USER 10001" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_is_looked_after_by_one_command(role: str) -> None:
    assert OURS[role]["healthcheck"]["test"] == ["CMD", "reprieve", "healthcheck"]


# -- what they start


class Started:
    """A service of the compose file as a process, with places of its own for its file and its port."""

    def __init__(self, name: str, servers: Any, folder: Path) -> None:
        postgres: EmbeddedPostgres = servers.postgres
        redis: EmbeddedRedis = servers.redis
        port = str(choose_port())
        self.pulse = folder / "pulse"
        secrets = folder / "secrets"
        self._places = {"/tmp/pulse": str(self.pulse), "0.0.0.0": "127.0.0.1", ":8000": f":{port}", ":5555": f":{port}"}
        self._places["/run/secrets"] = str(secrets)
        secrets.mkdir(exist_ok=True)
        for secret, value in SECRETS.items():
            (secrets / secret).write_text(f"{value}\n")
        service = COMPOSE["services"][name]
        self.environment = {key: self._here(str(value)) for key, value in service["environment"].items()} | {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONWARNINGS": "ignore",
            # By URL here, and so by nothing else.
            **{f"REPRIEVE_{server}_{part}".upper(): "" for server in SERVERS for part in (*PARTS, "password_file")},
            "REPRIEVE_DATABASE_URL": postgres.url,
            "REPRIEVE_REDIS_URL": redis.url,
            "REPRIEVE_DATA_DIR": str(folder),
            "REPRIEVE_LOG_ARCHIVE_URL": "",
            "FLOWER_PORT": port,
        }
        where = hostile_folder(folder)
        self.process: Process = spawn(name, service["command"], self.environment, folder, cwd=where)
        self._check = service["healthcheck"].get("test", ["NONE"])[1:]

    def _here(self, text: str) -> str:
        for there, here in self._places.items():
            text = text.replace(there, here)
        # What is not set has its default, mostly none.
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)

    @property
    def is_healthy(self) -> bool:
        return subprocess.run(self._check, env=self.environment, capture_output=True, timeout=30).returncode == 0


@pytest.fixture
def start(servers: Any, tmp_path: Path) -> Iterator[Any]:
    started: list[Started] = []

    def begin(name: str) -> Started:
        started.append(Started(name, servers, tmp_path))
        return started[-1]

    yield begin
    for one in started:
        one.process.stop()


def test_the_migration_ends_well(start: Any) -> None:
    migrate = start("migrate")
    assert migrate.process.popen.wait(60) == 0, migrate.process.output


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_starts_as_written_and_its_health_check_turns_green(role: str, start: Any) -> None:
    one = start(role)
    assert not one.is_healthy
    eventually(lambda: one.is_healthy, timeout=60, interval=0.3, what=lambda: f"{role}:\n{one.process.output}")


def test_the_health_check_of_a_worker_turns_red_when_it_stands_still_and_green_when_it_goes_on(start: Any) -> None:
    worker = start("worker-logs")
    eventually(lambda: worker.is_healthy, timeout=60, interval=0.3)
    worker.process.send(signal.SIGSTOP)
    eventually(lambda: psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED)
    minutes_ago = time.time() - 90
    os.utime(worker.pulse, (minutes_ago, minutes_ago))
    assert not worker.is_healthy
    worker.process.send(signal.SIGCONT)
    eventually(lambda: worker.is_healthy, timeout=60, interval=0.3)


def test_a_role_takes_more_arguments_behind_its_own(servers: Any, tmp_path: Path) -> None:
    environment = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "REPRIEVE_DATABASE_URL": servers.postgres.url}
    environment |= {"REPRIEVE_REDIS_URL": servers.redis.url, "REPRIEVE_DATA_DIR": str(tmp_path)}
    command = ["reprieve", "start", "worker-logs", "--concurrency=7"]
    process = spawn("more", command, environment, tmp_path)
    try:
        eventually(lambda: "concurrency: 7" in process.output, timeout=60, what=lambda: process.output)
    finally:
        process.stop()
