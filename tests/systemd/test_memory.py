"""What needs control of memory in cgroups of version 2: the tests of it are done inside of the machine."""

import shlex
import sys

import pytest

from tests.systemd.host import Host
from tests.systemd.machine import ROOT

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(900)]

#: The machine's own processes, devices and cgroups, beside the files of what it runs on; what is written goes nowhere.
ENTER = """
mkdir -p /host && mount -t hostfs -o / none /host && cd /host
for each in proc sys dev; do mount --rbind /$each $each; done
mount -t tmpfs none mnt
"""


#: The tests that make a cgroup with a limit, all of which are skipped where there can be none.
THESE = "more_memory or goes_when or stays_within or let_go or divided or container"


def test_the_tests_of_limits_of_memory_pass_where_there_are_limits(host: Host) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp=/mnt/tests", "--timeout=300"]
    words += ["tests/contract/test_what_a_command_used.py", "-k", THESE]
    variables = "TMPDIR=/mnt PYTHONDONTWRITEBYTECODE=1"
    inside = f"cd {shlex.quote(str(ROOT))} && {variables} {shlex.join(words)} 2>&1 | tail -n 40"
    script = f"{ENTER} chroot . bash -c {shlex.quote(inside)}"
    done = host.run(f"unshare --mount bash -ec {shlex.quote(script)}", timeout=800)
    [summary] = [line for line in done.output.splitlines() if " passed" in line] or [done.output]
    assert "failed" not in summary, done.output
    assert "skipped" not in summary, done.output
    assert " passed" in summary, done.output
