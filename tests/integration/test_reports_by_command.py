"""`reprieve report` within a run; `result`, `usage`, `ps` and `explain` of what runs have said."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from reprieve.cli.main import app
from reprieve.models.errors import InvalidRequest
from reprieve.models.saying import MAX_FILE, report_of, report_of_line
from reprieve.models.used import Used
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.finish import finish
from tests.support.rows import running
from tests.support.shipping import direct_shipper

REPRIEVE = Path(sys.executable).with_name("reprieve")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPRIEVE_REPORT", str(tmp_path / "reports"))
    return tmp_path / "reports"


def told(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def refused(*arguments: str) -> str:
    error = told("report", *arguments).exception
    assert isinstance(error, InvalidRequest), error
    return str(error)


def test_a_report_is_a_line_of_the_file_that_a_run_is_given(file: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{"loss": 0.25}')
    given = ("--progress", "0.4", "--say", "epoch 3 of 8", "--usage", "tokens=1200", "--usage", "cost=0.5")
    assert told("report", *given, "--result", f"@{tmp_path}/out.json").exit_code == 0
    assert told("report", "--progress", "1").exit_code == 0
    first, second = file.read_bytes().splitlines()
    whole = {"progress": 0.4, "say": "epoch 3 of 8", "result": {"loss": 0.25}, "usage": {"tokens": 1200, "cost": 0.5}}
    assert report_of_line(first) == report_of(whole)
    assert report_of_line(second) == report_of({"progress": 1})
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "a report says something; give any of"),
        (("--progress", "40"), "progress is 40.0; give a number from 0 to 1."),
        (("--result", "half"), "--result is no JSON"),
        (("--result", "@/nowhere"), "--result: /nowhere cannot be read (No such file or directory)."),
        (("--usage", "tokens"), "--usage 'tokens' is not of the form NAME=NUMBER, for example tokens=1200."),
        (("--usage", "tokens=many"), "is not of the form NAME=NUMBER"),
        (("--usage", "=5"), "is not of the form NAME=NUMBER"),
        (("--usage", "tokens=-5"), "give a number from 0 to 1e+15"),
        (("--usage", "tokens=nan"), "give a number from 0 to 1e+15"),
        (("--result", '"' + "x" * 70_000 + '"'), "of 65536 at the most"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(file: Path, arguments: tuple[str, ...], why: str) -> None:
    assert why in refused(*arguments)
    assert not file.exists()


def test_outside_of_a_run_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REPRIEVE_REPORT", raising=False)
    assert refused("--progress", "1") == "REPRIEVE_REPORT is not set: this is no run that can say anything of itself."
    monkeypatch.setenv("REPRIEVE_REPORT", str(tmp_path / "no" / "folder"))
    assert "cannot be written (No such file or directory)" in refused("--progress", "1")


def test_a_line_that_a_full_disk_has_cut_spoils_no_other(file: Path) -> None:
    file.write_text('{"progress": 0.1}\n{"progr')
    told("report", "--progress", "1")
    assert file.read_bytes().splitlines()[1:] == [b'{"progr', b'{"progress":1.0}']


@pytest.mark.parametrize("over", [0, 1])
def test_a_report_beyond_what_is_read_of_the_file_is_refused(file: Path, over: int) -> None:
    with file.open("wb") as opened:
        opened.seek(MAX_FILE - len('{"progress":1.0}\n') - 1 + over)
        opened.write(b"\n")
    if over:
        assert "no more than 16777216 bytes of it are read" in refused("--progress", "1")
    else:
        assert told("report", "--progress", "1").exit_code == 0
    assert file.stat().st_size == (MAX_FILE if not over else MAX_FILE - len('{"progress":1.0}\n') + 1)


def test_an_empty_object_is_a_result(file: Path) -> None:
    assert told("report", "--result", "{}").exit_code == 0
    assert report_of_line(file.read_bytes()).result == "{}"


def test_many_at_once_do_not_mix(file: Path) -> None:
    large = json.dumps("x" * 60_000)
    one = [str(REPRIEVE), "report", "--result", large, "--usage", "calls=1"]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: subprocess.run(one, capture_output=True, check=False), range(12)))
    assert [each.returncode for each in done] == [0] * 12
    assert [report_of_line(line).usage for line in file.read_bytes().splitlines()] == [{"calls": 1}] * 12


def test_it_needs_no_setting_and_no_server(file: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "REPRIEVE_REPORT": str(file), "REPRIEVE_DATABASE_URL": "nonsense"}
    done = subprocess.run([REPRIEVE, "report", "--say", "here"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert file.read_text() == '{"say":"here"}\n'


# -- what others see of it


def say(services: Services, **said: Any) -> str:
    work = running(services, labels={"team": "data"})
    context = RunContext(services, direct_shipper(services), work)
    context.report(**said)
    news = context.sayings.news()
    assert news is not None
    services.reports.write([news])
    return str(work.run_id)


def test_ps_and_explain_say_what_runs_say_and_no_character_of_it_acts(services: Services) -> None:
    run = say(services, progress=0.429, say="epoch\x1b[31m 3 \u202eof 8", usage={"tok\u00e9ns": 1200})
    listed = told("ps").stdout
    assert "SAYS" in listed
    assert "42 % epoch\\x1b[31m 3 \\u202eof 8" in listed
    (as_json,) = json.loads(told("ps", "--json").stdout)
    assert (as_json["report"]["progress"], as_json["report"]["usage"]) == (0.429, {"tok\u00e9ns": 1200})
    explained = told("explain", run).stdout
    assert "42 %, epoch\\x1b[31m 3 \\u202eof 8" in explained
    assert "By its own account it used: tok\u00e9ns 1,200." in explained
    assert json.loads(told("explain", "--json", run).stdout)["run"]["report"]["progress"] == 0.429


def test_runs_that_say_nothing_take_no_column_for_it(services: Services) -> None:
    running(services)
    assert "SAYS" not in told("ps").stdout


def test_a_result_is_printed_as_json_in_ascii(services: Services) -> None:
    run = say(services, result={"answer": "\u00e9\x1b[31m", "n": [1, None]})
    done = told("result", run[-8:])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"answer": "\u00e9\x1b[31m", "n": [1, None]})
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    silent = told("result", say(services, progress=0.5))
    assert (silent.exit_code, silent.stdout) == (1, "")
    assert "has given no result" in silent.stderr


def test_usage_is_a_table_or_json(services: Services) -> None:
    assert told("usage").stdout.startswith("No run was asked for since")
    for _ in range(2):
        say(services, usage={"tokens": 1200, "cost_usd": 0.25})
    measured = running(services)
    head, data, none = told("usage", "--by", "label:team").stdout.splitlines()
    assert head.split() == ["GROUP", "RUNS", "ATTEMPTS", "TIME", "CPU", "MEMORY", "USED"]
    assert data.split()[:3] == ["data", "2", "2"]
    assert data.split()[5:7] == ["-", "-"]
    assert data.endswith("cost_usd 0.5, tokens 2,400")
    finish(services, [End.by_result(measured.fence, Outcome(used=Used(90, 240 * 1024**2)), 0)])
    *_, none = told("usage", "--by", "label:team").stdout.splitlines()
    assert "1 min 30 s  240 MiB" in none
    assert (none.split()[:2], none.split()[-1]) == (["-", "1"], "-")
    found = json.loads(told("usage", "--by", "lane", "--since", "1h", "--json").stdout)
    assert found["groups"][0]["usage"] == {"tokens": 2400, "cost_usd": 0.5}
    assert isinstance(told("usage", "--by", "team").exception, InvalidRequest)
    assert isinstance(told("usage", "--since", "soon").exception, InvalidRequest)
