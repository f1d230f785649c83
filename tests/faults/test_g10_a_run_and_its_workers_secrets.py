"""G10: a run sees no secret of its worker, nor of any process beside it: what it inherits, and what /proc tells."""

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from reprieve import enqueue_run
from reprieve.adapters.secrets import is_withheld
from reprieve.models.status import Status
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.support.processes import Process, beat, spawn
from tests.support.rows import whole_log
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("G10")

ROOT = Path(__file__).parents[2]
#: Other processes of these tests may run at the same time, and have their own.
OURS = uuid4().hex
SECRETS = {
    "REPRIEVE_FLOWER_PASSWORD": f"of-flower-{OURS}",
    "REPRIEVE_API_TOKENS": f"admin=of-the-api-{OURS}",
    "FLOWER_BASIC_AUTH": f"user:of-basic-auth-{OURS}",
    "AWS_SECRET_ACCESS_KEY": f"of-the-archive-{OURS}",
    "PGPASSWORD": f"of-libpq-{OURS}",
}
#: Its own environment, that of each process above it, and of every other that it can see; and what it has open.
LOOK = """
env; tr '\\0' '\\n' < /proc/$PPID/environ
for each in /proc/[0-9]*; do
  (tr '\\0' '\\n' < $each/environ; tr '\\0' '\\n' < $each/cmdline) 2> /dev/null | sed "s|^|$each |"
done
ls -l /proc/self/fd /proc/$PPID/fd
"""


def _words(services: Services) -> list[str]:
    settings = services.settings
    urls = [settings.require_database_url(), settings.require_redis_url()]
    return [url.split("://")[1].split("@")[0].split(":")[1] for url in urls] + list(SECRETS.values())


@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_a_run_finds_no_secret_in_any_environment_or_command_line(
    services: Services,
    start_worker: StartWorker,
    environment: dict[str, str],
    tmp_path: Path,
    adapter: str,
) -> None:
    start_worker(extra=SECRETS, forked=False)
    one = spawn("beat", beat(), environment | SECRETS, tmp_path, forked=False)
    try:
        one.wait_for("beat: Starting")
        run = enqueue_run(adapter, {"command": ["sh", "-c", LOOK]})
        eventually(lambda: Status(services.runs.get(run.id).status).is_final, timeout=60)
        said = whole_log(services, run.id).decode(errors="replace")
    finally:
        one.stop()
    ours = {f"/proc/{os.getpid()}"}  # The test has its servers' addresses for its own.
    seen = "\n".join(line for line in said.splitlines() if line.split(" ")[0] not in ours)
    assert f"/proc/{one.pid} " in said
    assert "REPRIEVE_RUN_ID" in said
    assert [word for word in _words(services) if word in seen] == []


def test_a_worker_works_with_what_it_has_hidden_and_shows_what_it_is_known_by(
    services: Services, start_worker: StartWorker
) -> None:
    worker = start_worker(
        extra={**SECRETS, "DEPLOY_TOKEN": "of-the-run-5b1f", "REPRIEVE_NONCE": "whose-it-is"}, forked=False
    )
    shown = Path(f"/proc/{worker.pid}/environ").read_bytes()
    data = os.fsencode(services.settings.data_dir)
    for variable in (b"REPRIEVE_DATA_DIR=" + data, b"REPRIEVE_NONCE=whose-it-is", b"PATH=" + os.environb[b"PATH"]):
        assert variable in shown.split(b"\0")
    sources = {"A": "env:DEPLOY_TOKEN", "B": "env:AWS_SECRET_ACCESS_KEY"}
    command = ["sh", "-c", f'test "$A" = of-the-run-5b1f && test "$B" = of-the-archive-{OURS}']
    run = enqueue_run("process", {"command": command, "secrets": sources})
    eventually(lambda: services.runs.get(run.id).status == Status.SUCCEEDED, timeout=60)


#: Another user than root, who may see everything; dumpable as what that user starts is.
AS_NOBODY = """
import ctypes, os, sys
from reprieve.workers.secrecy import conceal
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""
WAIT = "print('begun', flush=True); input()"
LOOK_AT = """
for name in ('environ', 'maps', 'mem', 'auxv'):
    try:
        open(f'/proc/{sys.argv[1]}/{name}', 'rb').close()
        print(name)
    except PermissionError:
        pass
try:
    print(os.listdir(f'/proc/{sys.argv[1]}/fd'))
except PermissionError:
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
@pytest.mark.parametrize(("hiding", "seen"), [("pass", True), ("conceal()", False)])
def test_another_process_of_the_same_user_reads_neither_memory_nor_descriptors(hiding: str, seen: bool) -> None:
    command = [sys.executable, "-c", f"{AS_NOBODY}\n{hiding}\n{WAIT}"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        look = [sys.executable, "-c", AS_NOBODY + LOOK_AT, str(process.pid)]
        told = subprocess.run(look, cwd=ROOT, capture_output=True, text=True, timeout=60)
        process.kill()
    assert told.stderr == ""
    assert bool(told.stdout) is seen


def test_the_process_that_gives_all_roles_their_secrets_shows_none(tmp_path: Path) -> None:
    configuration = tmp_path / "supervisord.conf"
    sleeper = f"{sys.executable} -c 'import os, time; assert os.environ[\"PGPASSWORD\"]; time.sleep(60)'"
    configuration.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={tmp_path}/log\npidfile={tmp_path}/pid\n"
        f"[program:one]\ncommand={sleeper}\nstartsecs=1\n"
    )
    command = [sys.executable, "-P", "-m", "reprieve.cli.supervise", "-c", str(configuration)]
    supervisor: Process = spawn("supervisor", command, SECRETS, tmp_path)
    try:
        eventually(lambda: "entered RUNNING state" in supervisor.output, what=lambda: supervisor.output)
        shown = Path(f"/proc/{supervisor.pid}/environ").read_bytes().decode()
        assert [word for word in SECRETS.values() if word in shown] == []
    finally:
        supervisor.stop()


@pytest.mark.parametrize(
    ("variable", "withheld"),
    [
        ("REPRIEVE_DATABASE_URL", True),
        ("REPRIEVE_WHATEVER", True),
        ("FLOWER_BASIC_AUTH", True),
        ("CELERY_BROKER_URL", True),
        ("AWS_SESSION_TOKEN", True),
        ("AWS_REGION", False),
        ("OPENAI_API_KEY", False),
        ("PATH", False),
    ],
)
def test_what_is_the_workers_own_is_not_inherited(variable: str, withheld: bool) -> None:
    assert is_withheld(variable) is withheld


def test_hiding_may_be_done_twice_and_loses_no_value() -> None:
    script = (
        "import os; from reprieve.workers.secrecy import conceal; conceal(); conceal(); print(os.environ['PGPASSWORD'])"
    )
    reader = "; print(os.popen('echo $PGPASSWORD').read())"
    done = subprocess.run(
        [sys.executable, "-c", script + reader], env={**os.environ, "PGPASSWORD": "ü-word"}, capture_output=True
    )
    assert done.stdout.decode().split() == ["ü-word", "ü-word"], done.stderr
