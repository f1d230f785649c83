"""The journal for a collector: each record is one JSON object, with the run that it concerns."""

import logging
import os
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from reprieve.workers.journal import ABOUT


class Journal(JsonFormatter):
    """A record as one line of JSON: `time` (UTC), `level`, `logger`, `message`; `run_id` and `attempt`; `task`."""

    def __init__(self, host: str) -> None:
        super().__init__(
            ["levelname", "name", "message"], timestamp="time", static_fields={"host": host, "pid": os.getpid()}
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data["level"], log_data["logger"] = log_data.pop("levelname"), log_data.pop("name")
        # What Celery says of a task it says outside of it; the task of a run has its id.
        celery = log_data.pop("data", None)
        if isinstance(celery, dict) and "name" in celery:
            log_data["task"], log_data["task_id"] = celery["name"], celery.get("id")
        if (run := ABOUT.get()) is not None:
            log_data["run_id"], log_data["attempt"] = str(run[0]), run[1]
        elif str(log_data.get("task")).startswith("runs."):
            log_data["run_id"] = log_data["task_id"]
