"""How the figures grow with the number of runs and chunks: a plot, with the fitted exponent of each line."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench import gaps, ingest, latency, on_log, refresh, sweep
from bench.fleet import make_fleet
from bench.measure import Figures, Result, exponent, play
from bench.stack import Stack

#: Line by line: what is on the x axis, and the figure.
LINES = {
    "ingest by runs": ("runs", "chunks_per_second"),
    "ingest by chunks": ("chunks", "chunks_per_second"),
    "on_log by runs": ("runs", "p99_us"),
    "latency by pace": ("chunks a second", "p99_ms"),
    "refresh by fleet": ("running runs", "refreshes_per_second"),
    "sweep by fleet": ("running runs", "seconds"),
    "ingest by gaps": ("gaps", "ms"),
    "explain by gaps": ("gaps", "ms"),
    "closing by gaps": ("gaps", "ms"),
}

Measure = Callable[[], Figures]


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("growth")

    def measure(points: Mapping[tuple[str, int], Measure]) -> None:
        """The points of lines: for each line and size, the line's one figure."""
        cases = {f"{line}/{size}": partial(_only, LINES[line][1], run) for (line, size), run in points.items()}
        play(result, max(1, rounds - 2), cases, say)

    with stack.log_workers(1):
        for count in (1, 10, 100, 1000):
            chunks, calls = (5_000, 2_000) if quick else (200_000, 50_000)
            by_runs = {
                ("ingest by runs", count): partial(ingest.reprieve, stack, count, chunks, 120),
                ("on_log by runs", count): partial(on_log.measure, stack, calls, 0, count),
            }
            measure(by_runs)
        for count in (1_000, 3_000) if quick else (10_000, 100_000, 1_000_000):
            measure({("ingest by chunks", count): partial(ingest.reprieve, stack, 100, count, 120)})
            stack.empty()
        for pace in (10, 100) if quick else (10, 100, 1_000, 10_000):
            measure({("latency by pace", pace): partial(latency.measure, stack, pace, 1.0 if quick else 5.0)})
    for count in (10, 100, 1_000) if quick else (10, 100, 1_000, 10_000):
        of_a_log = {
            ("ingest by gaps", count): partial(gaps.ingest, stack, count),
            ("explain by gaps", count): partial(gaps.explain, stack, count),
            ("closing by gaps", count): partial(gaps.close, stack, count),
        }
        measure(of_a_log)
    for size in (1_000, 10_000) if quick else (10_000, 100_000, 1_000_000):
        make_fleet(stack, size)
        seconds, fences = 1.0 if quick else 8.0, refresh.fences_of(stack)
        of_a_fleet = {
            ("sweep by fleet", size): partial(sweep.sweep, stack, 0),
            ("refresh by fleet", size): partial(refresh.refresh, stack, fences, seconds, 1),
        }
        measure(of_a_fleet)
    for line, (_, figure) in LINES.items():
        result.notes[f"exponent of {line}"] = exponent(*points(result, line, figure))
    return result


def _only(figure: str, measure: Measure) -> Figures:
    return {figure: measure()[figure]}


def points(result: Result, line: str, figure: str) -> tuple[Sequence[float], Sequence[float]]:
    """The sizes and medians of a line."""
    cases = [case for case in result.rounds if case.startswith(f"{line}/")]
    return [float(case.rsplit("/", 1)[1]) for case in cases], [result.median(case, figure) for case in cases]


def plot(result: Result, path: Path) -> None:
    """A PNG with one panel per line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, 3, figsize=(14, 10), layout="constrained")
    for panel, (line, (axis, name)) in zip(panels.flat, LINES.items(), strict=True):
        sizes, values = points(result, line, name)
        panel.loglog(sizes, values, "o-", label=f"~ size^{result.notes[f'exponent of {line}']:.2f}")
        # Room for a decade, so that what is flat looks flat.
        panel.set(title=line, xlabel=axis, ylabel=name.replace("_", " "), ylim=(min(values) / 3, max(values) * 3))
        panel.grid(visible=True, which="both", alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=120)
