"""`make bench`, or `python -m bench [NAMES…] [--quick]`: measures, prints tables, writes JSON and a plot."""

import json
import logging
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench import (
    carry,
    closing,
    dispatch,
    enqueue,
    growth,
    hold,
    ingest,
    latency,
    lists,
    live,
    memory,
    million,
    on_log,
    page,
    refresh,
    short,
    sweep,
    years,
)
from bench.measure import Result
from bench.stack import stack

BENCHMARKS: dict[str, ModuleType] = {
    "ingest": ingest,
    "on_log": on_log,
    "latency": latency,
    "live": live,
    "memory": memory,
    "sweep": sweep,
    "refresh": refresh,
    "closing": closing,
    "growth": growth,
    "hold": hold,
    "enqueue": enqueue,
    "dispatch": dispatch,
    "carry": carry,
    "million": million,
    "short": short,
    "years": years,
    "lists": lists,
    "page": page,
}
#: Only by their names: they take long, or need an environment of their own.
LONG = ("hold", "enqueue", "dispatch", "carry", "million", "short", "years", "lists", "page")
PACKAGES = ("celery", "redis", "sqlalchemy", "psycopg2-binary", "zstandard", "msgspec")

console = Console(width=None if os.isatty(1) else 150)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"Some of: {', '.join(BENCHMARKS)}. All but {', '.join(LONG)} by default."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, one round: only to see that it runs.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each figure is their median.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the JSON and the plot go.")] = Path("bench/results"),
) -> None:
    """Measure what Reprieve costs, beside its rivals."""
    unknown = [name for name in names or [] if name not in BENCHMARKS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no benchmark; there are {', '.join(BENCHMARKS)}.")
    logging.disable(logging.CRITICAL)  # A broker that is away is part of the plan.
    out.mkdir(parents=True, exist_ok=True)
    with stack() as servers:
        for name in names or [name for name in BENCHMARKS if name not in LONG]:
            console.print(f"[bold]{name}[/]")
            result = BENCHMARKS[name].run(servers, 1 if quick else rounds, quick=quick, say=console.print)
            servers.empty()
            console.print(table(result))
            save(result, out / "results.json")
            if name == "growth":
                growth.plot(result, out / "growth.png")


def table(result: Result) -> Table:
    figures = list(dict.fromkeys(name for rounds in result.rounds.values() for name in rounds[0]))
    made = Table(title=f"{result.name} (medians)", box=None, header_style="bold")
    made.add_column("case")
    for name in figures:
        made.add_column(name, justify="right")
    for case, rounds in result.rounds.items():
        made.add_row(case, *(f"{result.median(case, name):,.4g}" if name in rounds[0] else "" for name in figures))
    for note, value in result.notes.items():
        if isinstance(value, int | float):
            made.add_row(f"[dim]{note}[/]", f"{value:,.4g}")
    return made


def save(result: Result, path: Path) -> None:
    """Put this benchmark's figures beside those of the others."""
    document = json.loads(path.read_text()) if path.exists() else {}
    document[result.name] = result.as_json() | {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
