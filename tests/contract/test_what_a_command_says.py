"""What a command says of itself in the file that it is given, whichever adapter runs it."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from reprieve.adapters import report_files
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.protocol import Keeping
from reprieve.models.saying import MAX_LINE, report_of
from reprieve.models.work import Work
from reprieve.testing.contexts import RecordingContext, carry_out, follow_on, following, work
from tests.support.waiting import eventually

Adapter = ProcessAdapter | DetachedAdapter


@pytest.fixture(params=[ProcessAdapter, DetachedAdapter], ids=["process", "detached"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    built: Adapter = request.param(tmp_path / "adapter", "here")
    return built


def shell(script: str, **config: object) -> Work:
    return work("sh", "-c", script, **config)


def told(adapter: Adapter, run: Work, context: RecordingContext | None = None) -> RecordingContext:
    context = context or RecordingContext(run.run_id, run.attempt)
    outcome = carry_out(adapter, run, context)
    assert outcome.detail == {"exit_status": 0}
    return context


def test_what_it_appends_is_taken_a_line_each_with_the_lines_number(adapter: Adapter) -> None:
    lines = [{"progress": 0.1, "usage": {"calls": 1}}, {"say": "two", "usage": {"calls": 1}}, {"result": [1]}]
    script = "".join(f"echo '{json.dumps(line)}' >> \"$REPRIEVE_REPORT\"\n" for line in lines)
    context = told(adapter, shell(script))
    assert context.reported == 3
    assert context.said.report == report_of({"progress": 0.1, "say": "two", "result": [1], "usage": {"calls": 2}})
    assert context.notes == []


def test_a_last_line_without_an_end_is_taken_when_the_command_has_ended(adapter: Adapter) -> None:
    assert told(adapter, shell('printf \'{"progress": 1}\' > "$REPRIEVE_REPORT"')).said.report.progress == 1


def test_it_is_taken_while_the_command_runs_and_half_a_line_waits(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_files, "LOOK_INTERVAL", 0.05)
    script = """
        printf '{"progress": 0.5}\n{"progress":' >> "$REPRIEVE_REPORT"
        while ! [ -e go ]; do sleep 0.05; done
        printf ' 0.75}\n' >> "$REPRIEVE_REPORT"
        while ! [ -e end ]; do sleep 0.05; done
    """
    here = Path(adapter._reports._folder).parent
    here.mkdir(exist_ok=True, parents=True)
    with following(adapter, shell(script, cwd=str(here))) as run:
        eventually(lambda: run.context.said.report.progress == 0.5)
        assert run.context.reported == 1
        (here / "go").touch()
        eventually(lambda: run.context.said.report.progress == 0.75)
        assert not run.result.done()
        (here / "end").touch()
        assert run.outcome().detail == {"exit_status": 0}
    assert run.context.notes == []


def test_what_could_not_be_read_at_one_look_is_read_at_the_next_though_it_says_nothing_more(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report_files, "LOOK_INTERVAL", 0.05)
    read, troubles = report_files.ReportFile._read, [OSError(errno.EMFILE, "Too many open files")] * 2

    async def read_with_trouble(self: report_files.ReportFile) -> bytes:
        if troubles:
            raise troubles.pop()
        return await read(self)

    monkeypatch.setattr(report_files.ReportFile, "_read", read_with_trouble)
    script = """
        echo '{"progress": 0.5}' >> "$REPRIEVE_REPORT"; while ! [ -e end ]; do sleep 0.05; done
    """
    with following(adapter, shell(script, cwd=str(tmp_path))) as run:
        eventually(lambda: run.context.said.report.progress == 0.5)
        (tmp_path / "end").touch()
        run.outcome()


def test_a_command_whose_file_goes_as_it_is_looked_at_keeps_no_other_from_being_heard(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report_files, "LOOK_INTERVAL", 0.05)
    scandir = os.scandir

    class Gone:
        def __init__(self, name: str) -> None:
            self.name = name

        def stat(self, **_: object) -> None:
            raise FileNotFoundError(self.name)

    @contextmanager
    def with_one_that_goes(folder: Path) -> Iterator[list[object]]:
        with scandir(folder) as entries:
            yield [Gone(f"{one.run_id}.{one.attempt}"), *entries]

    monkeypatch.setattr(report_files.os, "scandir", with_one_that_goes)
    one = shell("while ! [ -e end ]; do sleep 0.05; done", cwd=str(tmp_path))
    other = shell(
        'echo \'{"progress": 0.5}\' >> "$REPRIEVE_REPORT"; until [ -e end ]; do sleep 0.05; done', cwd=str(tmp_path)
    )
    with following(adapter, one), following(adapter, other) as heard:
        eventually(lambda: heard.context.said.report.progress == 0.5)
        monkeypatch.undo()
        (tmp_path / "end").touch()


@pytest.mark.parametrize("result", ["{}", "[]", "0", "false", '""'])
def test_a_result_that_holds_nothing_is_a_result(adapter: Adapter, result: str) -> None:
    context = told(adapter, shell(f'echo \'{{"result": {result}}}\' >> "$REPRIEVE_REPORT"'))
    assert (context.said.report.result, context.notes) == (result, [])


def test_many_processes_at_once_lose_nothing_and_count_nothing_twice(adapter: Adapter) -> None:
    one = "import os, sys; sys.path.insert(0, '');"
    append = (
        "fd = os.open(os.environ['REPRIEVE_REPORT'], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)\n"
        'for _ in range(200): os.write(fd, b\'{"usage": {"calls": 1}}\\n\')'
    )
    script = f'for n in 1 2 3 4 5; do {sys.executable} -I -S -c "$PROGRAM" & done; wait'
    context = told(adapter, shell(script, env={"PROGRAM": f"{one}\n{append}"}))
    assert context.said.report.usage == {"calls": 1000}


def test_what_is_no_report_is_passed_over_and_told_once(adapter: Adapter) -> None:
    script = """
        { echo '{"usage": {"calls": 1}}'; echo; echo nonsense; echo '{"progress": 40}'
          echo '{"usage": {"calls": 1}}'; } >> "$REPRIEVE_REPORT"
    """
    context = told(adapter, shell(script))
    assert (context.reported, context.said.report.usage) == (5, {"calls": 2})
    (note,) = context.notes
    assert note.startswith("Line 3 of its reports was passed over: it is no JSON: 'nonsense'.")


def test_a_line_without_end_holds_up_nothing_and_takes_no_memory(adapter: Adapter) -> None:
    script = f"""
        {{ head -c {2 * MAX_LINE} /dev/zero | tr '\\0' x; echo; echo '{{"progress": 0.5}}'; }} >> "$REPRIEVE_REPORT"
    """
    context = told(adapter, shell(script))
    assert (context.reported, context.said.report.progress) == (2, 0.5)
    assert "Line 1" in context.notes[0]
    assert "more than 524288 bytes" in context.notes[0]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("mkfifo $REPRIEVE_REPORT", "something else is in the place"),
        ("mkdir $REPRIEVE_REPORT", "something else is in the place"),
        ("ln -s /etc/passwd $REPRIEVE_REPORT", "none that can be read"),
    ],
)
def test_what_is_no_file_is_not_read_and_never_waited_for(adapter: Adapter, script: str, why: str) -> None:
    context = told(adapter, shell(script))
    assert context.reported == 0
    assert why in context.notes[0]
    key = (context.run_id, context.attempt)
    assert key in adapter.kept()
    adapter.forget(key)
    assert key not in adapter.kept()


def test_a_file_that_was_cut_counts_nothing_twice(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_files, "LOOK_INTERVAL", 0.05)
    here = Path(adapter._reports._folder).parent
    here.mkdir(exist_ok=True, parents=True)
    script = """
        for n in 1 2 3; do echo '{"usage": {"calls": 1}}' >> "$REPRIEVE_REPORT"; done
        while ! [ -e go ]; do sleep 0.05; done
        echo '{"progress": 0.5}' > "$REPRIEVE_REPORT"
        while ! [ -e end ]; do sleep 0.05; done
        echo '{"progress": 0.75}' >> "$REPRIEVE_REPORT"
    """
    with following(adapter, shell(script, cwd=str(here))) as run:
        eventually(lambda: run.context.reported == 3)
        (here / "go").touch()
        eventually(lambda: run.context.notes != [])
        (here / "end").touch()
        run.outcome()
    assert run.context.said.report == report_of({"progress": 0.75, "usage": {"calls": 3}})
    assert "was cut from 72 to 18 bytes" in run.context.notes[0]


def test_no_more_of_it_is_read_than_its_bound(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_files, "MAX_FILE", 48)
    script = 'for n in 1 2 3; do echo \'{"usage": {"calls": 1}}\' >> "$REPRIEVE_REPORT"; done'
    context = told(adapter, shell(script))
    assert context.said.report.usage == {"calls": 2}
    assert "more than 48 bytes" in context.notes[0]


def test_a_secret_is_masked_in_all_that_it_says_also_where_json_escapes_it(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = 'pass"word\\é'
    monkeypatch.setenv("THE_SECRET", secret)
    program = (
        "import json, os; secret = os.environ['TOKEN']; file = open(os.environ['REPRIEVE_REPORT'], 'a');"
        "said = {'say': 'with ' + secret, 'result': {secret: [secret]}, 'usage': {'n' + secret: 1}};"
        "print(json.dumps(said), file=file);"
        "print(secret, file=file)"
    )
    run = work(sys.executable, "-I", "-S", "-c", program, secrets={"TOKEN": "env:THE_SECRET"})
    context = told(adapter, run)
    report = context.said.report
    assert (report.sentence, report.result, report.usage) == ("with ***", '{"***":["***"]}', {"n***": 1})
    assert "word" not in context.notes[0]


def test_a_command_that_says_nothing_has_no_file_and_what_is_kept_goes_when_it_is_forgotten(adapter: Adapter) -> None:
    assert isinstance(adapter, Keeping)
    silent = told(adapter, shell('[ -n "$REPRIEVE_REPORT" ] && ! [ -e "$REPRIEVE_REPORT" ]'))
    assert (silent.reported, silent.notes) == (0, [])
    said = told(adapter, shell("echo '{\"progress\": 1}' >> $REPRIEVE_REPORT"))
    key = (said.run_id, said.attempt)
    assert key in adapter.kept()
    adapter.forget(key)
    adapter.forget(key)
    assert key not in adapter.kept()


def test_a_command_runs_where_it_can_say_nothing(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    if isinstance(adapter, DetachedAdapter):
        (tmp_path / "adapter" / "reports").touch()
    else:
        (tmp_path / "adapter").rmdir()
        (tmp_path / "adapter").touch()
    context = told(adapter, shell('[ -z "$REPRIEVE_REPORT" ] && echo here'))
    assert (context.output(), context.notes) == (b"here\n", [])


def test_a_variable_of_the_runs_own_does_not_lead_elsewhere(adapter: Adapter) -> None:
    context = told(
        adapter, shell("echo '{\"progress\": 1}' >> $REPRIEVE_REPORT", env={"REPRIEVE_REPORT": "/elsewhere"})
    )
    assert context.said.report.progress == 1


def test_a_worker_that_follows_anew_what_it_is_just_leaving_hears_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_files, "LOOK_INTERVAL", 0.05)
    adapter = DetachedAdapter(tmp_path / "adapter", "here")
    script = """
        echo up; while ! [ -e go ]; do sleep 0.05; done
        echo '{"progress": 0.5}' >> "$REPRIEVE_REPORT"
        while ! [ -e end ]; do sleep 0.05; done
    """
    run = shell(script, cwd=str(tmp_path))
    with following(adapter, run) as first:
        first.wait_for(b"up")
        with following(adapter, run, handle=first.context.handle) as second:
            second.wait_for(b"up")
            first.context.release()
            with pytest.raises(Exception, match="leave"):
                first.outcome()
            (tmp_path / "go").touch()
            eventually(lambda: second.context.said.report.progress == 0.5)
            (tmp_path / "end").touch()
            second.outcome()


def test_who_goes_on_with_a_command_counts_what_was_not_taken_yet_and_nothing_again(tmp_path: Path) -> None:
    adapter = DetachedAdapter(tmp_path / "adapter", "here")
    script = """
        for n in 1 2 3; do echo '{"usage": {"calls": 1}}' >> "$REPRIEVE_REPORT"; done
        echo up; while ! [ -e go ]; do sleep 0.05; done
        echo '{"usage": {"calls": 1}}' >> "$REPRIEVE_REPORT"
    """
    run = shell(script, cwd=str(tmp_path))
    with following(adapter, run) as first:
        first.wait_for(b"up")
        first.context.release()
        with pytest.raises(Exception, match="leave"):
            first.outcome()
    handle = first.context.handle
    with following(adapter, run, handle=handle, cursor=first.context.chunks[-1][2]) as second:
        # Two of the three had been taken, and were recorded.
        second.context.said = second.context.said.take(2, report_of({"usage": {"calls": 2}}))
        (tmp_path / "go").touch()
        second.outcome()
    assert (second.context.reported, second.context.said.report.usage) == (4, {"calls": 4})


def test_who_goes_on_with_a_command_that_has_cut_its_file_counts_what_comes_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_files, "LOOK_INTERVAL", 0.05)
    adapter = DetachedAdapter(tmp_path / "adapter", "here")
    script = """
        for n in 1 2 3; do echo '{"usage": {"calls": 1}}' >> "$REPRIEVE_REPORT"; done
        echo up; while ! [ -e cut ]; do sleep 0.05; done
        echo '{"usage": {"calls": 1}}' > "$REPRIEVE_REPORT"
        echo cut; while ! [ -e go ]; do sleep 0.05; done
        echo '{"usage": {"calls": 1}}' >> "$REPRIEVE_REPORT"
    """
    run = shell(script, cwd=str(tmp_path))
    with following(adapter, run) as first:
        eventually(lambda: first.context.reported == 3)
        first.context.release()
        with pytest.raises(Exception, match="leave"):
            first.outcome()
    (tmp_path / "cut").touch()
    report = tmp_path / "adapter" / "reports" / f"{run.run_id}.{run.attempt}"
    eventually(lambda: report.read_text().count("\n") == 1)
    context = RecordingContext(run.run_id, run.attempt)
    context.said = first.context.said
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(follow_on, adapter, run, first.context.handle, context)
        try:
            eventually(lambda: context.notes)
        finally:
            (tmp_path / "go").touch()
        second.result(timeout=60)
    assert (context.reported, context.said.report.usage) == (4, {"calls": 4})
    assert "has 1 lines, and 3 of it were taken before" in context.notes[0]
