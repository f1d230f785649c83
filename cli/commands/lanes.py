"""Commands about lanes: what runs and waits in each, and their rules."""

from typing import TYPE_CHECKING, Annotated

import typer

from reprieve.cli.commands import AsJson
from reprieve.cli.sentences import say, say_json
from reprieve.models.errors import InvalidRequest
from reprieve.models.lanes import checked_limit, checked_pattern

if TYPE_CHECKING:
    from reprieve.models.lanes import Rule
    from reprieve.stores.runs.lanes import LaneStore

Pattern = Annotated[
    str, typer.Argument(metavar="LANE", help="A lane's name, or the beginning of names and an asterisk: 'tenant:*'.")
]


def _lanes() -> "LaneStore":
    from reprieve.workers.bootstrap import services

    return services().lanes


def lanes(as_json: AsJson = False) -> None:
    """List lanes: how many of their runs are running and wait, and their limits."""
    from reprieve.workers.bootstrap import fleet_services

    wired = fleet_services()
    states, rules = wired.lanes.states(wired.timing.worker_gone_after), wired.lanes.rules()
    if as_json:
        from reprieve.api.lanes import LaneList

        say_json(LaneList.of(states, rules).model_dump(mode="json"))
        return
    if not states and not rules:
        say("No runs, and no rules. Make one with `reprieve lane set NAME --limit 3`.")
        return
    from reprieve.cli.render import lanes_table, terminal

    console = terminal()
    for line in lanes_table(states, rules, console.width):
        console.print(line, soft_wrap=True)


def lane_set(
    pattern: Pattern,
    limit: Annotated[int | None, typer.Option(help="Runs of each lane that may be running at once.")] = None,
    no_limit: Annotated[bool, typer.Option("--no-limit", help="Any number of them.")] = False,
) -> None:
    """Say how many runs of a lane may be running at once. What is running goes on."""
    if (limit is None) is not no_limit:
        raise InvalidRequest("Give either --limit NUMBER or --no-limit.")
    say(_told(_lanes().limit(checked_pattern(pattern), checked_limit(limit))))


def lane_pause(pattern: Pattern) -> None:
    """Have no run of a lane begin. What is running goes on."""
    say(_told(_lanes().pause(checked_pattern(pattern))))


def lane_resume(pattern: Pattern) -> None:
    """Have the runs of a paused lane begin again."""
    rule = _lanes().resume(checked_pattern(pattern))
    if rule is None:
        raise InvalidRequest(f"There is no rule for {pattern}; `reprieve lanes` lists them.")
    say(_told(rule))


def lane_remove(pattern: Pattern) -> None:
    """Forget the rule of a lane: it has no limit then, and is not paused."""
    if not _lanes().remove(checked_pattern(pattern)):
        raise InvalidRequest(f"There is no rule for {pattern}; `reprieve lanes` lists them.")
    say(f"{pattern}: no rule")


def _told(rule: "Rule") -> str:
    limit = "no limit" if rule.limit is None else f"limit {rule.limit}"
    return f"{rule.pattern}: {limit}{', paused' if rule.paused_at else ''}"
