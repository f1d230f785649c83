"""What is imported and started where the calls of Linux are missing, as on macOS: as near to it as Linux can come."""

import subprocess
import sys
from pathlib import Path

#: Calls of the standard library that macOS lacks. What asks for the system is told that it is another.
WITHOUT = """
import os, signal, sys
import mimetypes, sysconfig, urllib.request, uuid, webbrowser, zoneinfo
import platformdirs, psutil
sysconfig.get_config_vars()
CALLS = "pidfd_open posix_fallocate posix_fadvise sched_getaffinity getxattr setxattr memfd_create copy_file_range"
for name in CALLS.split():
    if hasattr(os, name):
        delattr(os, name)
del signal.pidfd_send_signal
sys.platform = "darwin"
"""
RUN = """
from dataclasses import replace
from pathlib import Path
import reprieve, reprieve.aio
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work

for name in reprieve.__all__:
    getattr(reprieve, name)
for adapter in (ProcessAdapter, DetachedAdapter):
    for limit in (None, 64 * 1024**2):
        one = replace(work("sh", "-c", "echo said; exit 3"), max_memory_bytes=limit)
        context = RecordingContext(one.run_id)
        outcome = carry_out(adapter(Path(sys.argv[1]), "here"), one, context)
        print(outcome.error_code, context.output(), "cannot be limited here" in (outcome.error_message or ""))
"""


def test_all_is_imported_a_command_ends_as_it_should_and_a_limit_of_memory_is_refused_with_a_sentence(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + RUN, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["exit_status b'said\\n' False", "adapter_error b'' True"] * 2
