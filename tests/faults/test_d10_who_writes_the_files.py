"""D10, B13: a detached command never has the file of its output, and its end is recorded on a disk that is full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

from reprieve.adapters import host
from reprieve.adapters.detached import DetachedAdapter
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import RecordingContext, carry_out, following, work
from tests.support.waiting import eventually


@pytest.fixture
def adapter(tmp_path: Path) -> DetachedAdapter:
    return DetachedAdapter(tmp_path / "adapter", "here")


def shell(script: str, **config: object) -> Work:
    return work("sh", "-c", script, **config)


def execute(adapter: DetachedAdapter, run: Work) -> tuple[Outcome, RecordingContext]:
    context = RecordingContext(run.run_id, run.attempt)
    return carry_out(adapter, run, context), context


@pytest.mark.row("D10")
@pytest.mark.parametrize(
    "script",
    [
        "echo one; echo important > /dev/stdout; echo two",
        "echo one; echo important >| /proc/self/fd/1; echo two",
        "echo one; dd if=/dev/zero of=/dev/stdout bs=1 count=0 2>/dev/null; echo important; echo two",
        "echo one; truncate -s 0 /dev/stdout 2>/dev/null; echo important; echo two",
    ],
)
def test_a_command_that_rewrites_its_output_loses_none_of_it(adapter: DetachedAdapter, script: str) -> None:
    _, context = execute(adapter, shell(script))
    assert context.output() == b"one\nimportant\ntwo\n"


@pytest.mark.row("D10")
def test_a_line_that_is_copied_to_standard_output_is_there_twice_as_a_shell_would_show_it(
    adapter: DetachedAdapter,
) -> None:
    _, context = execute(adapter, shell("echo one; echo important | tee /dev/stdout; echo two"))
    assert context.output() == b"one\nimportant\nimportant\ntwo\n"


@pytest.mark.row("D10")
def test_a_command_that_rewrites_its_errors_loses_none_of_them(adapter: DetachedAdapter) -> None:
    _, context = execute(adapter, shell("echo one >&2; echo two > /dev/stderr; echo three >&2"))
    assert context.output("stderr") == b"one\ntwo\nthree\n"


@pytest.mark.row("D10")
def test_a_file_that_somebody_cuts_is_told_and_read_on(adapter: DetachedAdapter, tmp_path: Path) -> None:
    script = f"printf 12345; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; printf 678"
    with following(adapter, shell(script)) as run:
        run.wait_for(b"12345")
        os.truncate(tmp_path / "adapter" / run.context.handle["folder"] / "stdout", 2)
        eventually(lambda: run.context.notes)
        (tmp_path / "go").touch()
        run.outcome()
    assert run.context.output() == b"12345678"
    assert "was cut from 5 to 2 bytes" in run.context.notes[0]
    assert run.context.output("reprieve").decode() == run.context.notes[0] + "\n"
    # Whoever follows on from the last cursor reads nothing twice.
    assert run.context.chunks[-1][2] == "5:0"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: IO[bytes]) -> None:
    """Take all the room there is, and see that there is none."""
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError:
        pass


@pytest.mark.row("B13")
def test_an_exit_on_a_full_disk_is_recorded_at_once_and_output_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        adapter = DetachedAdapter(disk / "adapter", "here")
        silent = shell(f"while [ ! -e {tmp_path}/full ]; do sleep 0.05; done; exit 7")
        talker = shell(f"while [ ! -e {tmp_path}/full ]; do sleep 0.05; done; head -c 300000 /dev/zero; exit 0")
        with following(adapter, silent) as first, following(adapter, talker) as second:
            eventually(lambda: first.context.heartbeats and second.context.heartbeats)
            with (disk / "filler").open("wb", buffering=0) as file:
                fill(file)
                (tmp_path / "full").touch()
                assert first.outcome() == Outcome.of_exit(7)
                eventually(lambda: second.context.looks > 20)
                assert not second.result.done()
            (disk / "filler").unlink()
            assert second.outcome() == Outcome.of_exit(0)
            assert len(second.context.output()) == 300_000


@pytest.mark.row("B13")
@pytest.mark.parametrize("looked_at", ["at once", "when it has ended"])
def test_where_there_is_no_room_for_the_record_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: str
) -> None:
    """The host is unfit, and the command may be all right: the adapter says so by the error itself."""
    identify = host.identify
    if looked_at == "when it has ended":  # As on a busy machine.

        def look(pid: int, marker: str) -> ProcessIdentity | None:
            eventually(lambda: not psutil.pid_exists(pid))
            return identify(pid, marker)

        monkeypatch.setattr(host, "identify", look)
    with small_disk(tmp_path / "disk") as disk, (disk / "filler").open("wb", buffering=0) as file:
        adapter = DetachedAdapter(disk / "adapter", "here")
        run = shell(f"touch {tmp_path}/started")
        (disk / "adapter" / str(run.run_id) / "1").mkdir(parents=True)
        for name in ("stdout", "stderr", "running.lock"):
            (disk / "adapter" / str(run.run_id) / "1" / name).touch()
        fill(file)
        with pytest.raises(OSError, match="No space left"):
            execute(adapter, run)
    assert not (tmp_path / "started").exists()
