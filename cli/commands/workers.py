"""Commands about workers of runs: which there are, and which are to take nothing new."""

from typing import Annotated

import typer

from reprieve.cli.commands import AsJson
from reprieve.cli.sentences import say, say_json

NodeName = Annotated[
    str, typer.Argument(metavar="NODE", help="A worker, as `reprieve workers` names it; or a host, for all of it.")
]


def workers(as_json: AsJson = False) -> None:
    """List the workers of runs: where each is, what it takes, how much it has."""
    from reprieve.workers.bootstrap import fleet_services

    wired = fleet_services()
    found, drains = wired.workers.all(wired.timing.worker_gone_after), wired.workers.drains()
    if as_json:
        say_json([one.model_dump(mode="json") for one in found])
        return
    if found:
        from reprieve.cli.render import terminal, workers_table

        console = terminal()
        for line in workers_table(found, wired.database.now(), console.width):
            console.print(line, soft_wrap=True)
    else:
        say("No workers of runs. `reprieve start worker-runs` starts one.")
    there = {name for one in found for name in (one.name, one.host)}
    for drain in drains:
        where = "" if drain.name in there else ", and not there"
        say(f"{drain.name} is drained since {drain.since:%Y-%m-%d %H:%M:%S} UTC{where}.")


def drain(node: NodeName) -> None:
    """Have a worker, or all workers of a host, take nothing new, and leave to others what these can follow."""
    from reprieve.workers.bootstrap import services

    services().workers.drain(node)
    say(f"{node} takes nothing new; `reprieve workers` shows what it still has.")


def undrain(node: NodeName) -> None:
    """Have a worker, or all workers of a host, take runs again."""
    from reprieve.workers.bootstrap import services

    services().workers.undrain(node)
    say(f"{node} takes runs again.")
