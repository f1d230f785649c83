"""G04: no id and no stored reference leads out of the folder it belongs to."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from reprieve import cancel_run, enqueue_run
from reprieve.adapters import host
from reprieve.adapters.detached import DetachedAdapter
from reprieve.models.errors import OutsideRoot, RunNotFound, UnknownAdapter
from reprieve.models.paths import inside
from reprieve.models.status import Probe
from reprieve.workers import execute as executing
from reprieve.workers import lifecycle
from reprieve.workers.bootstrap import Services
from tests.support.processes import sleeping_process
from tests.support.rows import new_run

pytestmark = pytest.mark.row("G04")

OUTSIDE = ["..", "../other", "run/../../other", "/etc", "/", ".", "", "run/..", "./."]
FORGED_IDS = [
    "../..",
    "../../etc/passwd",
    "/etc/passwd",
    "....",
    "%%%%",
    "____",
    "%",
    "",
    "-" * 40,
    "\0\0\0\0",
    "0000\n",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a run inside it, beside another that has what looks like one."""
    for name in ("root/run/1", "other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "exit.json").write_text(json.dumps({"returncode": 0}))
    (tmp_path / "root" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "absolute").symlink_to("/etc")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root" / "loop")
    (tmp_path / "root" / "inner").symlink_to(tmp_path / "root" / "run")
    return tmp_path / "root"


@pytest.mark.parametrize(
    "reference", [*OUTSIDE, "link", "link/1", "absolute/passwd", "inner/../../other", "loop", "nul\0"]
)
def test_a_reference_that_leaves_its_folder_is_refused(root: Path, reference: str) -> None:
    with pytest.raises(OutsideRoot):
        inside(root, reference)


@pytest.mark.parametrize("reference", ["run", "run/1", "run/1/../1", "./run", "inner/1", "not-there/yet", "..run"])
def test_a_reference_that_stays_inside_is_resolved(root: Path, reference: str) -> None:
    assert inside(root, reference).is_relative_to(root)


@pytest.mark.parametrize("forged", FORGED_IDS)
def test_what_is_no_id_is_no_run(services: Services, forged: str) -> None:
    run = new_run(services)
    with pytest.raises(RunNotFound):
        services.records.resolve(forged)
    with pytest.raises(RunNotFound):
        cancel_run(forged)
    assert services.runs.get(run.id).status == "queued"
    assert services.records.resolve(str(run.id)) == run.id


@pytest.mark.parametrize("forged", ["../..", "/etc/passwd", "0", ""])
def test_a_message_with_a_forged_id_starts_nothing(
    services: Services, forged: str, caplog: pytest.LogCaptureFixture
) -> None:
    executing.execute_task(forged)
    assert f"A message asks for {forged!r}, which is no run." in caplog.text
    assert lifecycle._crew is None


def test_a_message_that_names_no_run_at_all_ends_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    handle = executing.heed(None, None, SimpleNamespace(hostname="runs@here"))
    handle(SimpleNamespace(headers={"task": "runs.execute"}))
    assert "which is no run" in caplog.text


@pytest.mark.parametrize("forged", ["../../adapters", "/etc", "process/..", ""])
def test_what_is_no_adapter_gets_no_folder(services: Services, forged: str) -> None:
    with pytest.raises(UnknownAdapter):
        services.adapters.get(forged)
    with pytest.raises(UnknownAdapter):
        enqueue_run(forged, {"command": ["true"]})


@pytest.mark.parametrize(
    "reference", ["../other", "run/../../other", "link", "OTHER", "loop", "nul\0", "..", "", "/etc"]
)
def test_a_probe_reads_nothing_outside_the_adapters_folder(root: Path, tmp_path: Path, reference: str) -> None:
    adapter = DetachedAdapter(root, "here")
    reference = reference.replace("OTHER", str(tmp_path / "other"))
    with sleeping_process() as process:
        forged = process.as_handle() | {"host": "here", "folder": reference}
        ended = forged | {"folder": "run/1"}
        running = forged | {"folder": "run/2"}
        assert adapter.probe([forged, ended, running]) == [Probe.UNKNOWN, Probe.ENDED, Probe.ALIVE]
        assert host.is_alive(process)


HERE = {"host": "here"}
HALF_HANDLES = [
    {},
    HERE,
    HERE | {"folder": "run/2"},
    {"folder": "run/1"},
    HERE | {"folder": 7},
    HERE | {"folder": None},
]


@pytest.mark.parametrize("handle", HALF_HANDLES)
def test_a_probe_of_half_a_handle_is_in_doubt(root: Path, handle: dict) -> None:
    assert DetachedAdapter(root, "here").probe([handle]) == [Probe.UNKNOWN]
