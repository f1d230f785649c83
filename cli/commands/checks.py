"""Commands that judge: sweep, health, whatif, doctor, simulate."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reprieve.cli.commands import AsJson
from reprieve.cli.roles import ROLES, role_of_this_container
from reprieve.cli.sentences import say, say_json
from reprieve.models.errors import InvalidRequest


def sweep() -> None:
    """Have the reaper look now, instead of at its next turn."""
    from reprieve.workers.bootstrap import fleet_services
    from reprieve.workers.sweep import sweep as sweep_once

    say_json(sweep_once(fleet_services(), by_hand=True))


def health(as_json: AsJson = False) -> None:
    """Say whether the reaper sees and hears; exit status 1 with the reasons if it does not."""
    from reprieve.models.records import HealthRecord
    from reprieve.workers.bootstrap import fleet_services
    from reprieve.workers.health import complaints

    wired = fleet_services()
    pulse = wired.sweeps.pulse()
    reasons = complaints(wired, pulse)
    account = wired.sweeps.account()
    if as_json:
        say_json(HealthRecord.of(pulse, reasons, account).model_dump(mode="json"))
    else:
        say(*(reasons or ["Well: sweeps are made, and output comes through."]))
        if not reasons and pulse and pulse.under_way:
            say(pulse.under_way)
        for line in account:
            say(f"{line.adapter}: {line.reaped} reaped, {line.suspected_false} of them gave signs of life later")
    if reasons:
        raise typer.Exit(1)


def healthcheck() -> None:
    """Say whether the process of this container turns, or answers; exit status 1 if it does not. For health checks."""
    from reprieve.cli.__main__ import check

    check()


def whatif(
    window: Annotated[
        list[float] | None, typer.Option(metavar="SECONDS", help="A window to ask about; may be repeated.")
    ] = None,
    days: Annotated[int, typer.Option(help="Of runs that were asked for in so many last days.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Say which attempts another window would have had reaped, and what became of them. The window stays as it is."""
    from reprieve.models.whatif import checked_days, total, windows_of
    from reprieve.stores.silences import count_ended, shadows
    from reprieve.workers.bootstrap import fleet_services

    wired = fleet_services()
    asked, days, now = windows_of(window or (), wired.timing), checked_days(days), wired.database.now()
    attempts = count_ended(wired.database, days, now)
    found = total(shadows(wired.database, asked, days, now), asked)
    real = wired.timing.window.total_seconds()
    if as_json:
        told = [asdict(one) | {"window": one.window.total_seconds()} for one in found]
        say_json({"days": days, "attempts": attempts, "window_seconds": real, "windows": told})
        return
    span = "last day" if days == 1 else f"last {days} days"
    say(f"Of {attempts:,} attempts that have ended, of runs of the {span} (the window is {real:g} s):")
    for one in found:
        say(f"  {one.sentence}")
    say(
        "These are upper bounds: silence counts here while we were blind or deaf ourselves as well, and nobody was "
        "asked, where a platform or a vouch might have spared."
    )


def doctor(
    role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help=f"What that role needs: {', '.join(ROLES)}, or all; that of this container, or else all, by default.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is set up, what is not, and what to do, a line each; exit status 1 if something is wrong."""
    from reprieve.cli.doctor import examine

    if role is None:
        role = role_of_this_container()
    elif role == "all":
        role = None
    elif role not in ROLES:
        raise InvalidRequest(f"There is no role {role!r}; there are {', '.join(ROLES)}, and all of them: all.")
    raise typer.Exit(examine(role, as_json=as_json))


def simulate(
    runs: Annotated[int, typer.Option(help="How many are started over the time.")] = 100_000,
    hours: Annotated[float, typer.Option(help="Virtual hours.")] = 24.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same, to the letter.")] = 1,
    seeds: Annotated[int, typer.Option(help="So many seeds, from --seed on.")] = 1,
    faults: Annotated[str, typer.Option(help="all, none, or names with commas between them.")] = "all",
    parts: Annotated[int, typer.Option(help="So many parts, each with a database and a reaper of its own.")] = 1,
    without: Annotated[
        str | None, typer.Option(help="Also without each of these: watch,listen,ask,brake,adopt, or all.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the first seed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a fleet under faults through the reaper's own decisions; exit status 1 if it broke its promise."""
    from reprieve.cli.simulate import run_simulate
    from reprieve.simulation.plan import Plan, parse_faults, parse_guards

    plan = Plan(runs=runs, hours=hours, seed=seed, faults=parse_faults(faults), parts=parts)
    guards = parse_guards(without) if without is not None else ()
    try:
        status = run_simulate(plan, seeds=seeds, without=guards, picture=picture, as_json=as_json)
    except KeyboardInterrupt:
        say("the simulation was stopped.", problem=True)
        raise typer.Exit(130) from None
    raise typer.Exit(status)
