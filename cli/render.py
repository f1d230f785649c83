"""Runs as a person reads them on a terminal."""

import sys
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from models.rows import Run
from models.status import Status
from models.text import span

COLOURS = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "magenta",
}


def terminal() -> Console:
    """Standard output: as wide as the terminal, and wide enough for a table where there is none."""
    return Console(width=None if sys.stdout.isatty() else 160)


def short_id(run: Run) -> str:
    """The end of an id: ids begin with the time, so it is the end that tells runs of one minute apart."""
    return str(run.id).rsplit("-", 1)[-1]


def runs_table(runs: Sequence[Run], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("RUN", "ADAPTER", "STATUS", "ATTEMPT", "STARTED", "LAST SIGN", "LABELS", "ERROR"):
        table.add_column(column, no_wrap=column != "ERROR")
    for run in runs:
        status = Status(run.status)
        table.add_row(
            short_id(run),
            run.adapter,
            f"[{COLOURS[status]}]{status.value}[/]",
            f"{run.attempt}/{run.max_attempts}",
            f"{span(now - run.started_at)} ago" if run.started_at else "-",
            f"{span(now - run.updated_at)} ago" if status is Status.RUNNING else "-",
            " ".join(f"{name}={value}" for name, value in run.labels.items()) or "-",
            f"{run.error_code or '-'}{' (gave signs of life later)' if run.came_late else ''}",
        )
    return table
