"""What processes write of themselves: a line of JSON, with the run that it concerns."""

import json
import logging
import threading
from typing import Any
from uuid import uuid4

import pytest

from reprieve.workers.journal import about
from reprieve.workers.json_journal import Journal


@pytest.fixture
def written() -> Any:
    """Logs with the given level, text and extras, and returns the line as it is read back."""

    def write(text: str, *arguments: object, **extra: Any) -> dict[str, Any]:
        exception = extra.pop("exc_info", None)
        record = logging.LogRecord("workers.somewhere", logging.WARNING, "file.py", 1, text, arguments, exception)
        record.__dict__.update(extra)
        line = Journal("host-1").format(record)
        assert "\n" not in line
        fields: dict[str, Any] = json.loads(line)
        return fields

    return write


def test_a_line_has_its_time_level_logger_and_message(written: Any) -> None:
    line = written("Redis is %s.", "away")
    assert (line["message"], line["level"], line["logger"]) == ("Redis is away.", "WARNING", "workers.somewhere")
    assert line["time"].endswith("+00:00")
    assert line["host"] == "host-1"
    assert "run_id" not in line


def test_a_line_inside_about_names_run_and_attempt_and_one_after_it_does_not(written: Any) -> None:
    run, other = uuid4(), uuid4()
    with about(run, 2):
        with about(other):
            assert written("x")["run_id"] == str(other)
        line = written("x")
    assert (line["run_id"], line["attempt"]) == (str(run), 2)
    assert "run_id" not in written("x")


def test_what_one_thread_is_about_is_not_what_another_is_about(written: Any) -> None:
    lines: list[dict[str, Any]] = []
    with about(uuid4(), 1):
        thread = threading.Thread(target=lambda: lines.append(written("x")))
        thread.start()
        thread.join()
    assert "run_id" not in lines[0]


def test_what_celery_says_of_a_task_has_the_task_and_of_a_runs_task_the_run_but_never_the_arguments(
    written: Any,
) -> None:
    line = written("done", data={"id": "an-id", "name": "runs.execute", "args": "[secret]", "return_value": "secret"})
    assert (line["task"], line["task_id"], line["run_id"]) == ("runs.execute", "an-id", "an-id")
    assert "run_id" not in written("done", data={"id": "an-id", "name": "logs.ingest"})
    assert "secret" not in json.dumps(line)


def test_an_exception_is_in_its_line(written: Any) -> None:
    line = written("failed", exc_info=(ValueError, ValueError("no good"), None))
    assert "ValueError: no good" in line["exc_info"]
