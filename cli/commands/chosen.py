"""Commands about the runs that options choose: list them, end them, do them again."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import wraps
from inspect import signature
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer

from reprieve.cli.commands import AsJson
from reprieve.cli.commands.runs import labels, moment
from reprieve.cli.sentences import say, say_json
from reprieve.models.errors import InvalidRequest
from reprieve.models.filters import Deed, RunFilter, Sort
from reprieve.models.status import ErrorCode, Status
from reprieve.models.text import seconds_of

RunIfOne = Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id, or the beginning or end of one.")]
Statuses = Annotated[list[Status] | None, typer.Option("--status", help="Only these; may be repeated.")]
Adapter = Annotated[str | None, typer.Option(help="Only of this adapter.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="NAME=VALUE; may be repeated, all must hold.")]
Error = Annotated[ErrorCode | None, typer.Option(help="Only those that failed as this.")]
Lane = Annotated[str | None, typer.Option(help="Only of this lane.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only those asked for since then: 90m, 24h, 7d, or a moment.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only those asked for before that.")]
EndedSince = Annotated[str | None, typer.Option(metavar="TIME", help="Only those that ended since then.")]
Words = Annotated[str | None, typer.Option("--text", help="Only those with this in a label, or in the error.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it, only say how many there are.")]
Key = Annotated[str | None, typer.Option("--idempotency-key", help="The same key gives the same new runs.")]

#: What no option chooses from.
ANY = RunFilter()
#: Runs that are counted at once, …
COUNTED_AT_ONCE = 10_000
#: … and that something is done to at once.
DONE_AT_ONCE = 100


def chosen(
    status: Statuses = None,
    adapter: Adapter = None,
    label: Labels = None,
    error: Error = None,
    lane: Lane = None,
    since: Since = None,
    until: Until = None,
    ended_since: EndedSince = None,
    text: Words = None,
) -> RunFilter:
    """The runs that these options choose. Raises `InvalidRequest`."""
    return RunFilter.of(
        statuses=status or (),
        adapter=adapter,
        labels=labels(label),
        error=error,
        lane=lane,
        since=None if since is None else moment_of("--since", since),
        until=None if until is None else moment_of("--until", until),
        ended_since=None if ended_since is None else moment_of("--ended-since", ended_since),
        text=text,
    )


def choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose runs, in the place of its argument `wanted`, which is what they choose."""
    options = signature(chosen).parameters

    @wraps(command)
    def called(**given: Any) -> None:
        choice = {name: given.pop(name) for name in options}
        command(**given, wanted=chosen(**choice))

    own = signature(command)
    parameters = [
        one for name, each in own.parameters.items() for one in (options.values() if name == "wanted" else [each])
    ]
    # By these, Typer knows what a command takes.
    called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


@choosing
def ps(
    wanted: RunFilter = ANY,
    sort: Annotated[
        Sort, typer.Option(help="With --status running also: the longest running, or the longest silent, first.")
    ] = Sort.NEWEST,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first unless --sort says otherwise."""
    from reprieve.client.link import link

    runs = link().records.first(wanted, limit, sort)
    if as_json:
        say_json([each.model_dump(mode="json") for each in runs])
    elif runs:
        from reprieve.cli.render import runs_table, terminal

        console = terminal()
        for line in runs_table(runs, link().records.now(), console.width):
            console.print(line, soft_wrap=True)
    else:
        say("No runs. Start one with `reprieve run -- COMMAND`." if wanted.is_any else "No run fits.")


@choosing
def cancel(
    run_id: RunIfOne = None,
    wanted: RunFilter = ANY,
    yes: Yes = False,
) -> None:
    """End a run and its work; or all that are chosen and have not ended, with --yes."""
    from reprieve.workers.bootstrap import services
    from reprieve.workers.cancel import cancel_each, cancel_run

    if run_id is not None:
        _refuse_both(wanted)
        before = services().records.get(services().records.resolve(run_id))
        after = cancel_run(before.id)
        already = "had already ended: " if Status(before.status).is_final else ""
        say(f"{after.id} {already}{after.status}")
        return

    held = list[UUID]()

    def act(run_ids: list[UUID]) -> int:
        return len(cancel_each(services(), run_ids, held))

    def rest() -> int:
        return len(cancel_each(services(), held))

    _do_to_all(Deed.CANCEL, wanted, act, rest=rest, yes=yes, done="cancelled", if_cut_off="The others go on.")


@choosing
def again(
    run_id: RunIfOne = None,
    wanted: RunFilter = ANY,
    yes: Yes = False,
    idempotency_key: Key = None,
) -> None:
    """Start a new run that does the same as a run; or as each that is chosen and has ended, with --yes."""
    from reprieve.client.enqueue import again_each, run_again
    from reprieve.client.link import link
    from reprieve.stores.runs.again import not_made_with

    if run_id is not None:
        _refuse_both(wanted)
        say(run_again(link().records.resolve(run_id), idempotency_key=idempotency_key).id)
        return
    key = f"again-{uuid4()}" if idempotency_key is None else idempotency_key

    def others(run_ids: list[UUID]) -> list[UUID]:
        return run_ids if idempotency_key is None else not_made_with(link().connections, key, run_ids)

    def act(run_ids: list[UUID]) -> int:
        made = again_each({each: f"{key}-{each}" for each in run_ids}, link().connections)
        say(*(run.id for run, _ in made))
        return len(made)

    goes_on = f"The same command with --idempotency-key {key} does the others, and none twice."
    _do_to_all(Deed.AGAIN, wanted, act, others, yes=yes, done="done again", if_cut_off=goes_on)


def moment_of(option: str, given: str) -> datetime:
    """A moment, or so long ago by the database's clock. Raises `InvalidRequest`."""
    try:
        seconds = seconds_of(given)
    except InvalidRequest:
        return moment(option, given)
    from reprieve.client.link import link

    try:
        return link().records.now() - timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidRequest(f"{option} {given} is before all time; give less.") from None


def _refuse_both(wanted: RunFilter) -> None:
    if not wanted.is_any:
        raise InvalidRequest("Give a run, or options that choose some, not both.")


def _do_to_all(
    deed: Deed,
    wanted: RunFilter,
    act: Callable[[list[UUID]], int],
    these: Callable[[list[UUID]], list[UUID]] = list,
    *,
    rest: Callable[[], int] = int,
    yes: bool,
    done: str,
    if_cut_off: str,
) -> None:
    """Count the runs that fit and, if that is wanted, do it to all of them, the newest first, some at a time.

    `these` are those that it is done to of some that fit; `rest` does what was left for the end.
    """
    if wanted.is_any:
        raise InvalidRequest(f"Which runs? Give one, or choose some, for example `reprieve {deed} --label team=data`.")
    wanted = deed.of(wanted)
    count = sum(len(these(ids)) for ids in _pages(wanted, COUNTED_AT_ONCE))
    if not yes or not count:
        hint = "Nothing was done; --yes does it." if count else "There is nothing to do."
        say(f"{_runs(count)} of that kind. {hint}", problem=True)
        raise typer.Exit(1 if count else 0)
    finished = 0
    try:
        for ids in _pages(wanted, DONE_AT_ONCE):
            finished += act(these(ids))
            say(f"{finished:,} of {count:,} {done}", problem=True)
        finished += rest()
    except KeyboardInterrupt:
        say(f"Stopped: {_runs(finished)} {done}, and those of a step that was under way. {if_cut_off}", problem=True)
        raise typer.Exit(130) from None
    except Exception:
        say(f"Cut off: {_runs(finished)} {done}, and perhaps those of the step that failed. {if_cut_off}", problem=True)
        raise
    say(f"{_runs(finished)} {done}.", problem=True)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


def _pages(wanted: RunFilter, size: int) -> Iterator[list[UUID]]:
    """All runs that fit, the newest first; those that come meanwhile are newer than where it began."""
    from reprieve.client.link import link

    ids, before = link().records.ids(wanted, limit=size)
    while True:
        if ids:
            yield ids
        if before is None:
            return
        ids, before = link().records.ids(wanted, before=before, limit=size)
