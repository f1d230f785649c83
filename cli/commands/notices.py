"""Commands about notices: whom to tell what happens to runs, and what came of telling it."""

import base64
import secrets
import time
from typing import Annotated

import typer

from reprieve.cli.commands import AsJson
from reprieve.cli.sentences import say, say_json
from reprieve.models.errors import InvalidRequest
from reprieve.models.notices import KINDS, SECRET_PREFIX, NoticeState

RuleName = Annotated[str, typer.Argument(metavar="NAME", help="The name of a rule.")]

#: Seconds that a test waits for what comes of it, and between two looks.
TEST_TIMEOUT, LOOK_INTERVAL = 30.0, 0.2
#: Random bytes of a secret.
BYTES = 32


def notices_list(
    state: Annotated[NoticeState | None, typer.Option(help="By default, what is owed or undeliverable.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many of each state.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List notices: what is tried next, or was settled last, comes first."""
    from reprieve.models.records import NoticeRecord
    from reprieve.workers.bootstrap import services

    wired = services()
    states = [state] if state else [NoticeState.OWED, NoticeState.UNDELIVERABLE]
    found = [one for each in states for one in wired.notices.in_state(each, limit)]
    if as_json:
        say_json([NoticeRecord.of(one).model_dump(mode="json") for one in found])
        return
    now = wired.database.now()
    for one in found:
        say(f"{one.id}  {f'run {one.run_id}' if one.run_id else f'rule {one.rule}'}  {one.sentence(now)}")


def notices_rules(as_json: AsJson = False) -> None:
    """List the rules: who is told of what, of which runs."""
    from reprieve.models.records import NoticeRuleRecord
    from reprieve.workers.bootstrap import services

    rules = services().notices.rules()
    if as_json:
        say_json([NoticeRuleRecord.of(rule).model_dump(mode="json") for rule in rules])
        return
    for rule in rules:
        of = [f"{name}={value}" for name, value in rule.labels.items()]
        of += [f"lane {rule.lane}"] if rule.lane else []
        say(f"{rule.name}  {rule.address}  {', '.join(rule.kinds) or 'everything'}  of {', '.join(of) or 'all runs'}")


def notices_add(
    name: RuleName,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where notices are sent to, http(s)://HOST/….")],
    kind: Annotated[list[str] | None, typer.Option(help=f"{', '.join(KINDS)}; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE that a run must have; may be repeated.")] = None,
    lane: Annotated[str | None, typer.Option(help="The lane that a run must be in.")] = None,
) -> None:
    """Add a rule, or put it in the place of that of its name."""
    from reprieve.cli.commands.runs import labels
    from reprieve.models.notice_rules import checked_rule
    from reprieve.workers.bootstrap import services

    services().notices.put_rule(checked_rule(name, url, kind, labels(label), lane))


def notices_remove(name: RuleName) -> None:
    """Tell nobody by this rule from now on. What is owed stays owed."""
    from reprieve.workers.bootstrap import services

    services().notices.remove_rule(name)


def notices_test(name: RuleName) -> None:
    """Have a worker send a notice that tells of nothing to a rule's address, and say what came of it."""
    from reprieve.workers.bootstrap import services

    store = services().notices
    notice, until = store.test(name), time.monotonic() + TEST_TIMEOUT
    while notice.state == NoticeState.OWED and not (notice.failed or time.monotonic() > until):
        time.sleep(LOOK_INTERVAL)
        notice = store.find(notice.id)
    if notice.state == NoticeState.SENT:
        say(f"{notice.address} has taken it.")
        return
    why = notice.reason if notice.failed else "nobody has tried to send it: is a worker of the queue control running?"
    raise InvalidRequest(f"The test was not taken by {notice.address}: {why}")


def notices_again(notice_id: Annotated[str, typer.Argument(metavar="NOTICE", help="The id of a notice.")]) -> None:
    """Send a notice once more, with the same id, and try that for another day."""
    from uuid import UUID

    from reprieve.workers.bootstrap import services

    try:
        known = UUID(notice_id)
    except ValueError:
        raise InvalidRequest(f"{notice_id!r} is no id of a notice; `reprieve notices list` shows them.") from None
    services().notices.again(known)


def notices_secret() -> None:
    """Print a new secret for REPRIEVE_NOTICE_SECRET, by which receivers know that a notice is ours."""
    say(SECRET_PREFIX + base64.b64encode(secrets.token_bytes(BYTES)).decode())
