"""Tables for a person on a terminal. Text from elsewhere is data: never markup, and no character of it acts."""

import sys
from collections.abc import Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from reprieve.models.lanes import LaneState, Rule
from reprieve.models.records import Run, UsageGroup, UsageSummary
from reprieve.models.saying import in_numbers, percent
from reprieve.models.status import Status
from reprieve.models.text import in_memory, shown, span
from reprieve.models.workers import WorkerRecord

COLOURS = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "magenta",
}

#: Columns of a table where there is no terminal.
WIDTH = 160
#: Columns that an adapter's name takes at the most, and labels and an error at the least.
WIDEST_ADAPTER = 16
NARROWEST = 8
GAP = "  "


def terminal() -> Console:
    """Standard output: as wide as the terminal, and wide enough for a table where there is none."""
    return Console(width=None if sys.stdout and sys.stdout.isatty() else WIDTH)


def short_id(run: Run) -> str:
    """The end of an id: ids begin with the time, so it is the end that tells runs of one minute apart."""
    return str(run.id).rsplit("-", 1)[-1]


def runs_table(runs: Sequence[Run], now: datetime, width: int) -> list[Text]:
    """A head, and a line for each run, of so many columns. What runs say takes a quarter, where any says something;
    labels and errors take what is left, and are cut.
    """
    fixed = [["RUN", "ADAPTER", "STATUS", "ATTEMPT", "STARTED", "LAST SIGN"], *(_cells(run, now) for run in runs)]
    widths = [max(cell_len(cell) for cell in column) for column in zip(*fixed, strict=True)]
    loose = [("LABELS", "ERROR"), *((_labels(run), _error(run)) for run in runs)]
    says = ["SAYS", *map(_says, runs)] if any(map(_says, runs)) else [""] * len(fixed)
    of_says = min(max(map(cell_len, says)), max(NARROWEST, width // 4))
    room = max(width - sum(widths) - of_says - len(GAP) * (len(widths) + 1 + bool(of_says)), 2 * NARROWEST)
    labels_need, errors_need = (max(map(cell_len, column)) for column in zip(*loose, strict=True))
    of_errors = min(errors_need, max(room // 2, room - labels_need))
    of_labels = min(labels_need, room - of_errors)
    styles = ["bold", *(COLOURS[Status(run.status)] for run in runs)]
    lines = []
    for cells, (labels, error), saying, style in zip(fixed, loose, says, styles, strict=True):
        line = Text(style="bold" if cells is fixed[0] else "")
        for number, (cell, column) in enumerate(zip(cells, widths, strict=True)):
            line.append_text(_fitted(cell, column, style if number == 2 else "")).append(GAP)
        if of_says:
            line.append_text(_fitted(saying, of_says)).append(GAP)
        line.append_text(_fitted(labels, of_labels)).append(GAP).append_text(_fitted(error, of_errors))
        line.rstrip()
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def lanes_table(states: Sequence[LaneState], rules: Sequence[Rule], width: int) -> list[Text]:
    """A head, and a line for each lane; below them the rules that lanes of many names have."""
    head = ["LANE", "RUNNING", "LIMIT", "WAITING", "OLDEST", "LATER", ""]
    cells = [head, *(_lane_cells(one) for one in states)]
    cells += [_lane_cells(_without_runs(rule)) for rule in rules if rule.pattern.endswith("*")]
    return _plain_table(cells, width)


def _plain_table(rows: Sequence[Sequence[str]], width: int) -> list[Text]:
    """Rows of cells, the first of them the head, cut to so many columns of the terminal."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        line = Text(style="bold" if cells is rows[0] else "")
        for cell, column in zip(cells, widths, strict=True):
            line.append_text(_fitted(cell, column)).append(GAP)
        line.rstrip()
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _without_runs(rule: Rule) -> LaneState:
    return LaneState(rule.pattern, rule, 0, 0, 0, 0, None, is_served=True)


def _lane_cells(lane: LaneState) -> list[str]:
    notes = ["paused"] if lane.paused_at else []
    notes += [] if lane.is_served or not lane.waiting else ["no living worker serves it"]
    notes += [f"{lane.ending} not confirmed gone yet"] if lane.ending else []
    each = " each" if lane.lane.endswith("*") else ""
    return [
        shown(lane.lane),
        str(lane.under_way),
        "-" if lane.limit is None else f"{lane.limit}{each}",
        str(lane.waiting),
        span(lane.oldest) if lane.oldest else "-",
        str(lane.later),
        ", ".join(notes),
    ]


def _cells(run: Run, now: datetime) -> list[str]:
    """What is of a known width. No column of it is ever cut but an adapter's name."""
    adapter = Text(shown(run.adapter))
    adapter.truncate(WIDEST_ADAPTER, overflow="ellipsis")
    return [
        short_id(run),
        adapter.plain,
        f"{Status(run.status).value}{', quiet' if run.is_quiet else ''}",
        f"{run.attempt}/{run.max_attempts}",
        f"{span(now - run.started_at)} ago" if run.started_at else "-",
        f"{span(now - run.updated_at)} ago" if run.status == Status.RUNNING else "-",
    ]


def _labels(run: Run) -> str:
    return shown(" ".join(f"{name}={value}" for name, value in run.labels.items())) or "-"


def _says(run: Run) -> str:
    """How far it is and what it does, while it is at it; what it has come to is told otherwise."""
    if run.report is None or run.status != Status.RUNNING:
        return ""
    far = [] if run.report.progress is None else [percent(run.report.progress)]
    return shown(" ".join([*far, *filter(None, [run.report.sentence])]))


def usage_table(summary: UsageSummary, width: int) -> list[Text]:
    """A head, and a line for each group, cut to so many columns."""
    head = ["GROUP", "RUNS", "ATTEMPTS", "TIME", "CPU", "MEMORY", "USED"]
    return _plain_table([head, *(_usage_cells(one) for one in summary.groups)], width)


def _usage_cells(one: UsageGroup) -> list[str]:
    more = f" and {one.unlisted_names} more" if one.unlisted_names else ""
    used = shown(in_numbers(one.usage)) + more
    return [
        "-" if one.group is None else shown(one.group),
        f"{one.runs:,}",
        f"{one.attempts:,}",
        span(one.wall_seconds),
        "-" if one.cpu_seconds is None else span(one.cpu_seconds),
        "-" if one.peak_memory_bytes is None else in_memory(one.peak_memory_bytes),
        used or "-",
    ]


def _error(run: Run) -> str:
    return shown(f"{run.error_code or '-'}{' (gave signs of life later)' if run.came_late else ''}")


def _fitted(cell: str, width: int, style: str = "") -> Text:
    """A cell of exactly so many columns of a terminal, of which a character may take two."""
    fitted = Text(cell, style)
    fitted.truncate(width, overflow="ellipsis", pad=True)
    return fitted


def workers_table(workers: Sequence[WorkerRecord], now: datetime, width: int) -> list[Text]:
    """A head, and a line for each worker, cut to so many columns."""
    head = ["NAME", "HOST", "VERSION", "ROLES", "LANES", "UP", "SEEN", "RUNS", "PLACES", "SPOOL", "STATE"]
    return _plain_table([head, *(_worker_cells(one, now) for one in workers)], width)


def _worker_cells(one: WorkerRecord, now: datetime) -> list[str]:
    return [
        shown(one.name),
        shown(one.host),
        shown(one.version or "-"),
        shown(",".join(one.roles or ()) or "-"),
        shown(",".join(one.lanes)) if one.lanes is not None else "all",
        span(now - one.since),
        f"{span(now - one.last_seen)} ago",
        "-" if one.runs is None else str(one.runs),
        "-" if one.places is None else str(one.places),
        "-" if one.spool_bytes is None else f"{one.spool_bytes / 2**20:.0f} MiB",
        "gone" if one.is_gone else "draining" if one.draining else "taking",
    ]
