"""The same units where systemd is older than `DelegateSubgroup=` (254): everything but limits of memory."""

import pytest

from tests.systemd.host import COUNT, ROLES, Host
from tests.systemd.test_units import MIB, WORKER, counted

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(1200)]


def test_all_roles_are_active_and_the_one_line_that_is_not_known_is_named(older_host: Host) -> None:
    units = [f"reprieve@{role}" for role in ROLES]
    assert older_host.said(f"systemctl is-active {' '.join(units)}").split() == ["active"] * len(ROLES)
    said = older_host.said("journalctl --boot --quiet --no-pager --output=cat | grep 'Unknown key' | sort -u")
    assert [line.split("Unknown key")[1][:19] for line in said.splitlines()] == [" 'DelegateSubgroup'"]


def test_a_detached_run_goes_on_while_its_workers_unit_is_restarted(older_host: Host) -> None:
    run = older_host.start(COUNT.format(200))
    older_host.wait_for_output(run, "line 3")
    older_host.run(f"systemctl restart {WORKER}", timeout=120)
    assert older_host.wait_for(run)["status"] == "succeeded"
    assert older_host.output(run) == counted(200)


def test_a_run_with_a_limit_of_memory_fails_with_what_would_do_and_the_worker_goes_on(older_host: Host) -> None:
    before = older_host.main_pid("worker-runs")
    ended = older_host.wait_for(older_host.start("true", max_memory_bytes=64 * MIB))
    assert ended["error_code"] == "adapter_error"
    assert "DelegateSubgroup=reprieve-worker beside Delegate=yes (systemd 254 or later)" in ended["error_message"]
    assert older_host.main_pid("worker-runs") == before
