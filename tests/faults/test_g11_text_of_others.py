"""G11: text of others is data, wherever it is shown: no character of it acts, forges a line, or is taken for markup."""

import ast
import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from reprieve.cli import render, sentences
from reprieve.cli.main import app, main
from reprieve.models.errors import ReprieveError
from reprieve.models.records import ReportRecord
from reprieve.models.status import Status
from reprieve.models.text import shown
from reprieve.workers.bootstrap import Services
from reprieve.workers.journal import Lines
from tests.support.text_of_others import ACTS, HOSTILE, rows_with

pytestmark = pytest.mark.row("G11")

ROOT = Path(__file__).parents[2]

#: Columns at the least that ten thousand characters, and wide ones, would take.
LONG = {"long": "x" * 10_000, "wide": "漢字" * 5_000, "combining": "e\u0301" * 5_000}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_shown_is_one_line_in_which_nothing_acts(name: str) -> None:
    said = shown(HOSTILE[name])
    assert not ACTS.search(said)
    assert said.isprintable()
    assert len(said.splitlines()) == 1


def test_every_character_is_shown_as_itself_or_escaped_and_words_of_any_script_stay() -> None:
    for number in range(sys.maxunicode + 1):
        said = shown(chr(number))
        assert said == chr(number) or said.startswith("\\"), hex(number)
        assert said.isprintable()
    for words in ("team=data", "Größe", "日本語", "עברית", "हिन्दी", "🚀", "C:\\path [x]", "e\u0301"):
        assert shown(words) == words
    assert shown("\ud800\x1b\n") == "\\ud800\\x1b\\n"


COMMANDS: list[list[str]] = [
    ["ps"],
    ["ps", "--json"],
    ["usage"],
    ["usage", "--by", "label:team", "--json"],
    ["result", "RUN"],
    ["explain", "RUN"],
    ["explain", "--json", "RUN"],
    ["cancel", "RUN"],
    ["token", "list"],
    ["health"],
    ["health", "--json"],
    ["logs", "RUN"],
    ["sweep"],
]


def test_no_command_writes_what_acts_whatever_the_rows_hold(services: Services) -> None:
    runs = [rows_with(services, evil, number) for number, evil in enumerate(HOSTILE.values())]
    for words in COMMANDS:
        for run in runs if "RUN" in words else [""]:
            command = [run if word == "RUN" else word for word in words]
            done = CliRunner().invoke(app, command)
            assert done.exception is None or isinstance(done.exception, SystemExit), (command, done.exception)
            assert not ACTS.search(done.output), (command, ACTS.findall(done.output))
            assert not any(line.startswith("RUN forged") for line in done.output.splitlines())
    listed = CliRunner().invoke(app, ["ps"]).output.splitlines()
    assert len(listed) == 1 + 2 * len(HOSTILE)
    assert all(cell_len(line) <= render.WIDTH for line in listed)
    assert any("[red]alarm[/]" in line for line in listed)


NOW = datetime.now(UTC)


@dataclass
class OfOthers:
    """A run as far as `ps` looks at it."""

    id: UUID
    labels: dict[str, str]
    adapter: str = "process"
    status: str = Status.RUNNING
    attempt: int = 1
    max_attempts: int = 3
    started_at: datetime = NOW - timedelta(days=3)
    updated_at: datetime = NOW - timedelta(seconds=12)
    error_code: str = "adapter_liveness_lost"
    came_late: bool = True
    is_quiet: bool = False
    report: ReportRecord | None = None


@pytest.mark.parametrize("width", [80, 120, 160])
@pytest.mark.parametrize("kind", [*LONG, *HOSTILE])
def test_ps_keeps_run_and_status_legible_beside_labels_of_any_length(kind: str, width: int) -> None:
    value = (LONG | HOSTILE)[kind]
    plain = OfOthers(uuid4(), {"team": "data"})
    says = ReportRecord(progress=0.5, sentence=value, at=NOW, usage={}, result_bytes=None)
    named = OfOthers(uuid4(), {value: value, "b": "x"}, adapter=value, report=says)
    runs: list[Any] = [plain, named, plain]
    head, *lines = render.runs_table(runs, NOW, width)
    assert [cell_len(line.plain) <= width for line in (head, *lines)] == [True] * 4
    for run, line in zip(runs, lines, strict=True):
        assert line.plain.startswith(str(run.id)[-12:] + "  ")
        assert "  running  1/3  " in line.plain.replace("running  1/3 ", "running  1/3  ")
        assert line.plain.isprintable()
    # In columns of the terminal, all stand below each other.
    places = {cell_len(line.plain[: line.plain.index(" running ")]) for line in lines}
    assert places == {cell_len(head.plain[: head.plain.index(" STATUS ")])}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_error_that_quotes_others_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ReprieveError(f"It said: {HOSTILE[name]}")

    monkeypatch.setattr("reprieve.client.link.link", fail)
    monkeypatch.setattr(sys, "argv", ["reprieve", "ps"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capfd.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("reprieve: It said: ")
    assert told.count("\n") == 1
    assert not ACTS.search(told)


@pytest.mark.parametrize("argument", ["[/]", "[red]x", "\x1b[31m", "a\nb"])
def test_an_argument_that_will_not_do_is_refused_without_a_crash(
    argument: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["ps", "--limit", argument], ["ps", "--status", argument], [argument], ["ps", f"--{argument}"]):
        monkeypatch.setattr(sys, "argv", ["reprieve", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        told = capfd.readouterr().err
        assert "\x1b[31m" not in told
        assert "Traceback" not in told


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_of_a_process_is_one_line_and_its_traceback_is_indented(name: str) -> None:
    evil = HOSTILE[name]
    error = ValueError(f"{evil}\n[2026-01-01 00:00:00: ERROR] forged")
    about = (ValueError, error, None)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "It failed: %s", (evil,), about)
    first, *rest = Lines(logging.Formatter("[%(levelname)s] %(message)s")).format(record).split("\n")
    assert first == f"[ERROR] It failed: {shown(evil)}"
    assert rest
    assert all(line.startswith("    ") and not ACTS.search(line) for line in rest)
    assert record.args == (evil,)


def test_nothing_of_the_command_line_prints_but_by_the_one_function() -> None:
    """`demo` and `simulate` draw with Rich what is their own; what they show of others goes through `shown`."""
    for module in sorted((ROOT / "cli").glob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
        bare = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not bare or module.name == "sentences.py", module.name


def test_data_for_programs_is_ascii_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    sentences.say_json({"label": HOSTILE["C1 controls"]})
    said = capsys.readouterr().out
    assert said.isascii()
    assert json.loads(said) == {"label": HOSTILE["C1 controls"]}
