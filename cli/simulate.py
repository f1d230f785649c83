"""`reprieve simulate`: run the simulations, and tell what came of them in a table and in sentences."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from reprieve.cli.extras import need
from reprieve.cli.render import terminal
from reprieve.cli.sentences import say_json
from reprieve.models.errors import InvalidRequest
from reprieve.models.text import span
from reprieve.simulation.plan import Guard, Plan

if TYPE_CHECKING:  # They need numpy, which only the extra brings.
    from reprieve.simulation.parts import SplitReport
    from reprieve.simulation.report import Report

MOST_SEEDS = 100


class Compared(NamedTuple):
    """One seed: with all guards, and without each of those that were named."""

    base: "Report"
    without: "dict[Guard, Report]"


def run_simulate(
    plan: Plan, *, seeds: int, without: Sequence[Guard] = (), picture: Path | None = None, as_json: bool = False
) -> int:
    """Simulate so many seeds from the plan's on; returns the exit status: 0 if nothing was against the promise."""
    if not 1 <= seeds <= MOST_SEEDS:
        raise InvalidRequest(f"--seeds {seeds} cannot be simulated; use 1 to {MOST_SEEDS}.")
    if plan.parts > 1 and (without or picture is not None):
        raise InvalidRequest("--parts tells of each part; use --without and --picture for a fleet that is not split.")
    need("numpy", "`reprieve simulate`")
    if plan.parts > 1:
        return _simulate_parts(plan, seeds, as_json=as_json)
    if picture is not None:
        need("matplotlib", "--picture")
        if picture.suffix.lower() != ".png" or not picture.absolute().parent.is_dir():
            raise InvalidRequest(f"--picture {picture} cannot be written; name a .png file in a folder that is there.")
    compared = [_compare(replace(plan, seed=plan.seed + number), without) for number in range(seeds)]
    if picture is not None:
        from reprieve.simulation.picture import draw

        totals = {guard.value: sum(len(one.without[guard].false_reaps) for one in compared) for guard in without}
        draw(compared[0].base, {"all guards": sum(len(one.base.false_reaps) for one in compared)} | totals, picture)
    if as_json:
        say_json(_record(compared))
    else:
        _tell(terminal(), compared)
    return 0 if all(one.base.is_good for one in compared) else 1


def _simulate_parts(plan: Plan, seeds: int, *, as_json: bool) -> int:
    """The same of a fleet that is split."""
    from reprieve.simulation.parts import simulate

    reports = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        for seed in range(plan.seed, plan.seed + seeds):
            task = progress.add_task(f"seed {seed}, {plan.parts} parts", total=1.0)
            reports.append(simulate(replace(plan, seed=seed), partial(_update, progress, task)))
    good = all(report.is_good for report in reports)
    if as_json:
        say_json({"good": good, "seeds": [report.record() for report in reports]})
    else:
        _tell_parts(terminal(), reports)
    return 0 if good else 1


def _update(progress: Progress, task: TaskID, share: float) -> None:
    progress.update(task, completed=share)


def _tell_parts(console: Console, reports: "Sequence[SplitReport]") -> None:
    for report in reports:
        console.print(_parts_table(report))
        for number, part in enumerate(report.parts):
            _tell_reaps(console, part, f", part {number} of seed {report.plan.seed}")
        console.print()
    for sentence in _verdict([part for report in reports for part in report.parts]):
        console.print(sentence, highlight=False, soft_wrap=True)


def _parts_table(report: "SplitReport") -> Table:
    """A row for each part."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=f"seed {report.plan.seed}", title_justify="left")
    counts = ("PART", "STARTED", "AT ONCE", "DEAD", "FOUND", "MISSED")
    for column in (*counts, "ALL WITHIN", "WHILE WELL", "FALSE REAPS", "NOT PROMISED"):
        table.add_column(column, justify="right")
    for number, part in enumerate(report.parts):
        running, false = max(part.series.running, default=0), len(part.false_reaps)
        dead = (part.died, len(part.found), len(part.missed))
        within = [_span(part.quantiles(well=well), "max") for well in (False, True)]
        table.add_row(
            *map(str, (number, part.started, running, *dead)), *within, f"{false}", f"{len(part.live) - false}"
        )
    return table


def _compare(plan: Plan, without: Sequence[Guard]) -> Compared:
    from reprieve.simulation.world import World

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:

        def simulate(plan: Plan, name: str) -> "Report":
            task = progress.add_task(f"seed {plan.seed}, {name}", total=1.0)
            return World(plan).run(lambda share: progress.update(task, completed=share))

        base = simulate(plan, "all guards")
        return Compared(base, {guard: simulate(plan.lacking(guard), f"without {guard}") for guard in without})


def _record(compared: Sequence[Compared]) -> dict[str, Any]:
    return {
        "good": all(one.base.is_good for one in compared),
        "seeds": [
            one.base.record() | {"guards_off": {guard.value: each.record() for guard, each in one.without.items()}}
            for one in compared
        ],
    }


def _tell(console: Console, compared: Sequence[Compared]) -> None:
    reports = [one.base for one in compared]
    console.print(_figures(reports))
    for report in reports:
        _tell_reaps(console, report, f", seed {report.plan.seed}" if len(reports) > 1 else "")
    if compared[0].without:
        console.print()
        console.print(_worth(compared))
    console.print()
    for sentence in _verdict(reports):
        console.print(sentence, highlight=False, soft_wrap=True)


def _figures(reports: "Sequence[Report]") -> Table:
    """A row for each figure, a column for each seed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for report in reports:
        table.add_column(f"seed {report.plan.seed}", justify="right")
    columns = [_column(report) for report in reports]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _column(report: "Report") -> dict[str, str]:
    from reprieve.simulation.report import LiveReap

    died, well = report.quantiles(well=False), report.quantiles(well=True)
    figures = {
        "runs started": f"{report.started}",
        "workers": f"{report.workers}",
        "faults": f"{len(report.faults)}",
    }
    figures |= {f"live runs reaped {what.value}": f"{len(report.of(what))}" for what in LiveReap}
    figures |= {
        "ended by themselves, and nobody could read how in time": f"{report.ended_unread}",
        "dead runs": f"{report.died}",
        "… found": f"{len(report.found)}",
        "… missed": f"{len(report.missed)}",
        "… open at the end, dead for too short a time": f"{report.open}",
        "found after their death: half of them within": _span(died, "p50"),
        "… 99 % within": _span(died, "p99"),
        "… all within": _span(died, "max"),
        "… while the system was well: half of them within": _span(well, "p50"),
        "… 99 % within (well)": _span(well, "p99"),
        "… all within (well)": _span(well, "max"),
        "most convictions in one sweep": f"{report.most_at_once}",
        "adoptions": f"{report.adoptions}",
        "tried again": f"{report.retried}",
    }
    figures |= {f"sweeps that convicted {name}": f"{count}" for name, count in report.histogram().items()}
    sparings = (
        "spare_alive",
        "spare_ended",
        "spare_vouched",
        "spare_unknown",
        "spare_warming_up",
        "spare_lagging",
        "spare_braked",
    )
    return figures | {f"sparings: {name}": f"{report.sparings[name]}" for name in sparings}


def _span(quantiles: dict[str, float], name: str) -> str:
    return span(quantiles[name]) if quantiles else "-"


def _tell_reaps(console: Console, report: "Report", where: str) -> None:
    """The first of each class of live runs that were reaped, in words."""
    from reprieve.simulation.report import TOLD, LiveReap

    for what in LiveReap:
        reaps = report.of(what)
        for number, reap in enumerate(reaps[:TOLD]):
            if number == 0:
                console.print(f"\n{what.value}{where} ({len(reaps)}):", highlight=False, soft_wrap=True)
            console.print(f"  {reap.sentence()}", highlight=False, soft_wrap=True)
    for missed in report.missed[:TOLD]:
        console.print(f"  missed: {missed}", highlight=False, soft_wrap=True)


def _worth(compared: Sequence[Compared]) -> Table:
    """What each guard was worth: the figures of all seeds together, without it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("GUARD OFF")
    for column in ("FALSE REAPS", "NOT PROMISED", "ENDS UNREAD", "MOST AT ONCE", "MISSED"):
        table.add_column(column, justify="right")
    table.add_row("(none)", *_totals([one.base for one in compared]))
    for guard in compared[0].without:
        table.add_row(guard.value, *_totals([one.without[guard] for one in compared]))
    return table


def _totals(reports: "Sequence[Report]") -> tuple[str, ...]:
    false = sum(len(report.false_reaps) for report in reports)
    figures = (
        false,
        sum(len(report.live) for report in reports) - false,
        sum(report.ended_unread for report in reports),
        max(report.most_at_once for report in reports),
        sum(len(report.missed) for report in reports),
    )
    return tuple(map(str, figures))


def _verdict(reports: "Sequence[Report]") -> list[str]:
    """What it comes to, in sentences."""
    false = sum(len(report.false_reaps) for report in reports)
    others = sum(len(report.live) for report in reports) - false
    missed = sum(len(report.missed) for report in reports)
    sentences = [
        "No live run was reaped against the promise."
        if not false
        else f"{false} live runs were reaped against the promise.",
        "No dead run was missed." if not missed else f"{missed} dead runs were missed.",
    ]
    if others:
        sentences.append(f"{others} live runs were reaped that no promise covers: cut off too long, or doubt ran out.")
    return sentences
