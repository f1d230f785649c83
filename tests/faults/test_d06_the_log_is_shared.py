"""D06: a log is not on the disk of one worker: whoever is asked can show it, wherever it was written."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reprieve.models.closing import Closing
from reprieve.models.errors import LogUnavailable
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.archive import LogArchives
from reprieve.stores.logs import PostgresLogStore
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.context import RunContext
from reprieve.workers.finish import finish
from tests.support.forking import REPRIEVE
from tests.support.processes import run_command
from tests.support.rows import running
from tests.support.shipping import direct_shipper

pytestmark = pytest.mark.row("D06")


@pytest.fixture
def shared(services: Services, tmp_path: Path) -> Services:
    """Services of one host, whose archive is a folder that all hosts share."""
    return on_another_host(services, (tmp_path / "shared").as_uri())


def on_another_host(services: Services, archive_url: str) -> Services:
    archives = LogArchives(services.database, archive_url)
    return replace(services, archives=archives, logs=PostgresLogStore(services.database, archives))


def logs_on_another_host(work: Work, tmp_path: Path, archive_url: str) -> subprocess.CompletedProcess[bytes]:
    """`reprieve logs` in a process of another host: with a data folder of its own, which is empty."""
    there = {
        "REPRIEVE_DATA_DIR": str(tmp_path / "other-data"),
        "REPRIEVE_NODE_NAME": "another-host",
        "REPRIEVE_LOG_ARCHIVE_URL": archive_url,
    }
    return run_command([REPRIEVE, "logs", work.run_id], env={**os.environ, **there})


def printed(services: Services) -> Work:
    """A run that has printed and ended; its output went through the spool of this host."""
    work, shipper = running(services), direct_shipper(services)
    context = RunContext(services, shipper, work)
    for number in range(100):
        context.on_log("stdout", b"line %d\n" % number)
    assert shipper.close(30)
    finish(services, [End.by_result(work.fence, Outcome(), context.last_seq)])
    return work


EXPECTED = b"".join(b"line %d\n" % number for number in range(100))


@pytest.mark.usefixtures("every_log_is_large")
@pytest.mark.parametrize("closed", [False, True])
def test_the_log_outlives_the_disk_of_the_worker_that_wrote_it(shared: Services, tmp_path: Path, closed: bool) -> None:
    work = printed(shared)
    if closed:
        assert close_log(shared, work.run_id, 1) is Closing.DONE
    shutil.rmtree(shared.settings.data_dir, ignore_errors=True)
    reader = on_another_host(shared, shared.archives.objects.url)
    assert b"".join(chunk.data for chunk in reader.logs.read(work.run_id, 1)) == EXPECTED
    shown = logs_on_another_host(work, tmp_path, shared.archives.objects.url)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, EXPECTED, b"")


@pytest.mark.usefixtures("every_log_is_large")
def test_an_archive_that_is_out_of_reach_is_an_error_and_not_an_empty_log(shared: Services, tmp_path: Path) -> None:
    work = printed(shared)
    assert close_log(shared, work.run_id, 1) is Closing.DONE
    elsewhere = on_another_host(shared, (tmp_path / "another").as_uri())
    with pytest.raises(LogUnavailable, match=r"file:.* does not give runs/.*\.ndjson\.zst: the folder .* is not there"):
        elsewhere.logs.read(work.run_id, 1)
    shown = logs_on_another_host(work, tmp_path, elsewhere.archives.objects.url)
    assert (shown.returncode, shown.stdout) == (2, b"")
    assert b"is not there" in shown.stderr
    assert b"Traceback" not in shown.stderr
