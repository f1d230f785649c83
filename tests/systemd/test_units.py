"""The units on a machine of their own: what they start, what outlives what, and what nobody sees."""

import json

import pytest

from tests.support.waiting import eventually
from tests.systemd.host import COUNT, ROLES, Host
from tests.systemd.page import PAGE, commands

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(1200)]

MIB = 1024**2
WORKER = "reprieve@worker-runs"
#: The cgroups of attempts.
ATTEMPTS = f"/sys/fs/cgroup/system.slice/system-reprieve.slice/{WORKER}.service/reprieve-[0-9a-f]*"
#: Has 300 MiB, and holds them.
TOO_MUCH = f"python3 -c 'held = bytearray(300 * {MIB}); import time; time.sleep(600)'"


def counted(number: int) -> str:
    return "".join(f"line {each}\n" for each in range(1, number + 1))


# -- what is started


def test_systemd_has_nothing_to_say_against_any_unit_and_all_roles_are_active(host: Host) -> None:
    units = [f"reprieve@{role}" for role in ROLES]
    assert host.said(f"systemctl is-active reprieve.target {' '.join(units)}").split() == ["active"] * 8
    assert host.said("systemctl list-units --failed --plain --no-legend 'reprieve*'") == ""
    files = "/etc/systemd/system/reprieve{@worker-runs.service,@api.service,-migrate.service,.target}"
    assert host.run(f"systemd-analyze verify {files} 2>&1 | grep reprieve", check=False).output == ""


def test_what_each_unit_allows_is_what_the_page_says(host: Host) -> None:
    said = host.said("systemd-analyze security --no-pager | grep reprieve@")
    scores = {line.split()[0]: line.split()[1] for line in said.splitlines()}
    others = {score for unit, score in scores.items() if "worker-runs" not in unit}
    assert len(others) == 1, scores
    assert f"| all but `worker-runs` | {others.pop()} |" in PAGE
    assert f"| `worker-runs` | {scores[f'{WORKER}.service']} |" in PAGE


def test_root_has_every_command_with_the_settings_of_the_services(host: Host) -> None:
    ran = host.run("reprieve run --follow -- sh -c 'id -un; echo $HOME; exit 3'", check=False)
    assert (ran.status, ran.output.split()) == (3, ["reprieve", "/var/lib/reprieve"])
    [worker] = json.loads(host.reprieve("workers", "--json"))
    assert worker["name"] == "runs@first"


# -- what outlives what


@pytest.mark.parametrize("limit", [None, 64 * MIB], ids=["no limit", "a limit of memory"])
def test_a_detached_run_goes_on_while_its_workers_unit_is_restarted_and_no_line_of_it_is_lost(
    host: Host, limit: int | None
) -> None:
    run = host.start(COUNT.format(250), max_memory_bytes=limit)
    host.wait_for_output(run, "line 3")
    before = host.main_pid("worker-runs")
    host.run(f"systemctl restart {WORKER}", timeout=120)
    assert host.main_pid("worker-runs") not in ("0", before)
    assert host.status(run) == "running"
    ended = host.wait_for(run)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert host.output(run) == counted(250)


def test_a_worker_that_is_killed_is_started_again_and_its_runs_go_on_or_are_tried_again(host: Host) -> None:
    detached = host.start(COUNT.format(200))
    own = host.start("sleep 5; echo done", adapter="process", max_attempts=2)
    host.wait_for_output(detached, "line 3")
    host.wait_for(own, "running")
    host.run(f"kill -9 {host.main_pid('worker-runs')}")
    first, second = host.wait_for(detached), host.wait_for(own, timeout=480)
    assert (first["status"], first["attempt"]) == ("succeeded", 1)
    assert host.output(detached) == counted(200)
    assert (second["status"], second["attempt"]) == ("succeeded", 2)
    assert host.output(own, 2) == "done\n"


def test_a_stop_waits_for_what_runs_in_the_worker_and_leaves_what_is_detached(host: Host) -> None:
    own = host.start("sleep 20; echo to the end", adapter="process")
    detached = host.start(COUNT.format(300))
    host.wait_for(own, "running")
    host.wait_for_output(detached, "line 1")
    host.run(f"systemctl stop {WORKER}", timeout=120)
    assert host.status(own) == "succeeded"
    assert host.output(own) == "to the end\n"
    assert host.show(WORKER, "Result") == "success"
    assert host.said(f"cat {ATTEMPTS}/cgroup.procs") != ""
    host.run(f"systemctl start {WORKER}")
    host.wait_for(detached)
    assert host.output(detached) == counted(300)


def test_a_run_that_has_too_much_memory_ends_as_that_and_its_worker_and_the_other_runs_go_on(host: Host) -> None:
    before, beside = host.main_pid("worker-runs"), host.start(COUNT.format(200))
    host.wait_for_output(beside, "line 1")
    for adapter in ("process", "detached"):
        ended = host.wait_for(host.start(TOO_MUCH, adapter=adapter, max_memory_bytes=64 * MIB))
        assert (ended["status"], ended["error_code"]) == ("failed", "oom_killed")
    assert host.show(WORKER, "ActiveState") == "active"
    assert host.main_pid("worker-runs") == before
    assert host.wait_for(beside)["status"] == "succeeded"
    assert host.output(beside) == counted(200)


def test_the_target_stops_and_starts_all_roles(host: Host) -> None:
    states = f"systemctl is-active {' '.join(f'reprieve@{role}' for role in ROLES)}"
    host.run("systemctl stop reprieve.target", timeout=120)
    eventually(lambda: set(host.run(states, check=False).output.split()) == {"inactive"}, timeout=120, interval=1)
    # One that is masked keeps nobody else from it.
    host.run("systemctl mask --runtime reprieve@flower && systemctl start reprieve.target")
    host.wait_until_green([role for role in ROLES if role != "flower"])
    host.run("systemctl unmask --runtime reprieve@flower && systemctl start reprieve@flower")
    host.wait_until_green(["flower"])


def test_after_a_power_cut_all_is_started_again_and_what_was_cut_off_is_found_lost(host: Host) -> None:
    script = "echo begun; test $REPRIEVE_ATTEMPT = 2 || sleep 3600"
    own, detached = (host.start(script, adapter=adapter, max_attempts=2) for adapter in ("process", "detached"))
    for run in (own, detached):
        host.wait_for_output(run, "begun")
    host.run("sync")
    host.machine.pull_the_plug()
    host.machine.switch_on()
    host.wait_until_green()
    again, lost = host.wait_for(own, timeout=600), host.wait_for(detached, timeout=600)
    assert (again["status"], again["attempt"]) == ("succeeded", 2)
    # That work which lived elsewhere is started again is for its run to ask for (`retry_on`).
    assert (lost["status"], lost["error_code"], lost["attempt"]) == ("failed", "adapter_liveness_lost", 1)
    assert (host.output(own, 1), host.output(detached, 1)) == ("begun\n", "begun\n")


# -- what nobody sees

#: As a run: whatever it can read of files and processes.
LOOK = """
cat /run/credentials/*/* /etc/reprieve/* /etc/reprieve/credentials/* /run/*.environment
ls /run/credentials /etc/reprieve
env; echo "in $CREDENTIALS_DIRECTORY"
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'
true
"""


def secrets(host: Host) -> list[str]:
    return host.said("cat /etc/reprieve/credentials/* | sed 's/^admin=//'").split()


def test_systemctl_shows_no_secret_and_neither_does_the_journal(host: Host) -> None:
    known = secrets(host)
    assert len(known) == 4
    shown = host.said(
        "systemctl show 'reprieve*'; systemctl show-environment; journalctl --quiet --no-pager | tail -5000"
    )
    assert "REPRIEVE_DATA_DIR" in shown
    assert [secret for secret in known if secret in shown] == []


@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_a_run_sees_no_secret_of_any_role_though_it_is_of_the_same_user(host: Host, adapter: str) -> None:
    run = host.start(LOOK, adapter=adapter)
    assert host.wait_for(run)["status"] == "succeeded"
    seen = host.output(run)
    assert "REPRIEVE_RUN_ID=" in seen
    assert "in \n" in seen
    assert [secret for secret in secrets(host) if secret in seen] == []


@pytest.mark.parametrize("missing", ["/etc/reprieve", "/etc/reprieve/credentials", "/etc/reprieve/environment"])
def test_what_is_missing_is_named_in_the_journal_and_a_role_starts_as_soon_as_it_is_there(
    host: Host, missing: str
) -> None:
    roles = ["worker-runs", "beat"]
    host.run(f"mv {missing} /root/aside")
    try:
        for role in roles:
            host.run(f"systemctl restart reprieve@{role}", check=False, timeout=120)
            eventually(
                lambda role=role: (
                    "No such file" in host.journal(f"reprieve@{role}")  # type: ignore[misc]
                    or f"There is no folder {missing}" in host.journal(f"reprieve@{role}")
                ),
                timeout=60,
                what=lambda role=role: host.journal(f"reprieve@{role}"),  # type: ignore[misc]
            )
    finally:
        host.run(f"mv /root/aside {missing}")
    host.wait_until_green(roles)


def test_a_password_that_is_wrong_is_said_in_the_journal_and_not_shown(host: Host) -> None:
    file = "/etc/reprieve/credentials/REDIS_PASSWORD"
    host.run(f"cp -p {file} /root/right && echo 'not-this-one' > {file} && systemctl restart reprieve@worker-control")
    try:
        eventually(
            lambda: "invalid username-password" in host.journal("reprieve@worker-control"),
            timeout=90,
            what=lambda: host.journal("reprieve@worker-control")[-3000:],
        )
        assert "not-this-one" not in host.journal("reprieve@worker-control")
    finally:
        host.run(f"mv /root/right {file} && systemctl restart reprieve@worker-control")
    host.wait_until_green(["worker-control"])


@pytest.mark.parametrize(
    "secret", ["simple", "with ' and \" and $HOME and `id` and \\", "  spaces  ", "# no comment", "é%d"]
)
def test_a_secret_reaches_the_worker_of_runs_as_it_is(host: Host, secret: str) -> None:
    host.run(f"rm -rf /root/c; mkdir /root/c; cat > /root/c/ONE <<'END'\n{secret}\nEND\n")
    host.run("/usr/local/libexec/reprieve-credentials /root/c /root/c.environment")
    given = "systemd-run --quiet --wait --pipe --property=EnvironmentFile=/root/c.environment printenv REPRIEVE_ONE"
    assert host.run(given).output == f"{secret}\n"
    assert host.said("stat -c %a:%U /root/c.environment") == "600:root"


# -- more than one worker, and another release


def test_a_second_worker_of_runs_stands_beside_the_first_with_a_name_and_lanes_of_its_own(host: Host) -> None:
    host.run(commands("Several workers of runs on one host"), timeout=120)
    try:
        run = host.start("echo on a gpu", lane="gpu")
        eventually(lambda: len(host.ask("/v1/workers")["workers"]) == 2, timeout=120, interval=1)
        assert host.wait_for(run)["status"] == "succeeded"
        host.run("systemctl stop reprieve-gpu@worker-runs", timeout=120)
        host.wait_until_green(["worker-runs"])
    finally:
        host.run("systemctl disable --now reprieve-gpu@worker-runs", timeout=120)
        host.run("rm -r /etc/systemd/system/reprieve-gpu@*; systemctl daemon-reload")


def test_a_release_is_replaced_while_runs_go_on_and_its_folder_is_free_when_they_have_ended(host: Host) -> None:
    old = host.said("readlink -f /opt/reprieve")
    used = f"pgrep -f {old.replace('/r', '/[r]')}/"  # As the page says, but not of the shell that asks.
    run = host.start(COUNT.format(300))
    host.wait_for_output(run, "line 3")
    host.run("\n".join(commands("Upgrade").splitlines()[2:]), timeout=400)
    host.wait_until_green()
    assert host.said("readlink -f /opt/reprieve") == "/opt/reprieve-0.2.0"
    if host.status(run) == "running":
        assert host.run(used, check=False).output
    assert host.wait_for(run)["status"] == "succeeded"
    assert host.output(run) == counted(300)
    eventually(lambda: host.run(used, check=False).output == "", timeout=60)
    host.run(f"rm -r {old}")
    assert host.wait_for(host.start("echo again", adapter="process"))["status"] == "succeeded"
