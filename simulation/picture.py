"""The picture of a simulation: the fleet over the day, what was reaped, the faults, and what the guards were worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

from reprieve.simulation.plan import HOUR, FaultKind
from reprieve.simulation.report import LATEST, Report

#: Faults of single workers are too many to be seen; these are shown as bands.
SHOWN = {
    FaultKind.DATABASE_OUTAGE: "tab:red",
    FaultKind.BROKER_OUTAGE: "tab:orange",
    FaultKind.BACKLOG: "tab:olive",
    FaultKind.LOG_WORKERS_STUCK: "tab:green",
    FaultKind.PARTITION: "tab:purple",
    FaultKind.PLATFORM_OUTAGE: "tab:cyan",
    FaultKind.BEAT_STOPPED: "tab:gray",
    FaultKind.ROLLING_DEPLOY: "tab:blue",
}
BINS = 48


def draw(report: Report, false_reaps: Mapping[str, int], file: Path) -> None:
    """Draw one simulation into a PNG file; `false_reaps` by what was switched off, one bar each."""
    # Imported here, since the first import on a machine starts a process that looks for fonts.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("Agg")
    figure = Figure(figsize=(12, 10), layout="constrained")
    rows = figure.subplots(4 if len(false_reaps) > 1 else 3, 1)
    figure.suptitle(f"{report.started} runs in {report.plan.hours:g} virtual hours, seed {report.plan.seed}")
    _draw_fleet(rows[0], report)
    _draw_reaps(rows[1], report)
    _draw_detection(rows[2], report)
    if len(false_reaps) > 1:
        _draw_guards(rows[3], false_reaps)
    figure.savefig(file, dpi=80)


def _draw_fleet(axes: Axes, report: Report) -> None:
    series = report.series
    hours = [at / HOUR for at in series.at]
    axes.plot(hours, series.running, color="black", linewidth=1, label="running")
    axes.plot(hours, series.suspects, color="crimson", linewidth=1, label="suspects")
    axes.set_ylabel("runs")
    lines = axes.get_legend_handles_labels()[0]
    axes.legend(handles=[*lines, *_bands(axes, report)], fontsize=7, ncols=5, loc="upper left")
    axes.set_ylim(0, max(series.running, default=1) * 1.4)
    axes.set_xlim(0, report.plan.hours)


def _draw_reaps(axes: Axes, report: Report) -> None:
    series = report.series
    axes.vlines([at / HOUR for at in series.at], 0, series.reaps, color="black", linewidth=1)
    _bands(axes, report)
    axes.set_ylabel("reaped for silence\nby one sweep")
    axes.set_xlabel("virtual hours")
    axes.set_xlim(0, report.plan.hours)
    axes.set_ylim(0, None)


def _bands(axes: Axes, report: Report) -> list[Artist]:
    """Shade the faults; returns what the legend says of them."""
    from matplotlib.patches import Patch

    met = [fault for fault in report.faults if fault.kind in SHOWN]
    for fault in met:
        axes.axvspan(fault.start / HOUR, fault.end / HOUR, color=SHOWN[fault.kind], alpha=0.2, linewidth=0)
    kinds = {fault.kind for fault in met}
    return [Patch(color=colour, alpha=0.4, label=kind.value) for kind, colour in SHOWN.items() if kind in kinds]


def _draw_detection(axes: Axes, report: Report) -> None:
    limit = 4 * LATEST
    for times, name in (
        ([one.from_death for one in report.found], "from death"),
        ([one.well for one in report.found], "while the system was well"),
    ):
        axes.hist([min(time, limit) for time in times], bins=BINS, range=(0, limit), histtype="step", label=name)
    axes.axvline(LATEST, color="gray", linestyle=":", label="window + sweep")
    axes.set_xlabel("seconds until a dead run was found (the last bar: that long or longer)")
    axes.set_ylabel("dead runs")
    axes.legend(fontsize=7)


def _draw_guards(axes: Axes, false_reaps: Mapping[str, int]) -> None:
    names = [name if number == 0 else f"without {name}" for number, name in enumerate(false_reaps)]
    axes.bar_label(axes.bar(names, list(false_reaps.values()), color="crimson"), fontsize=8)
    axes.set_ylabel("false reaps")
    axes.margins(y=0.15)
