"""What a client does, step by step, whatever carries it out: asks again, turns pages, waits, comes back to a place.

Asking again is safe for every request: reading changes nothing, cancelling twice is cancelling once, and each run that
is asked for has an idempotency key.
"""

from http import HTTPStatus
from math import inf
from typing import Any
from uuid import UUID

from reprieve.client.backoff import Backoff, Waiting
from reprieve.client.http import calls
from reprieve.client.http.steps import Answer, Give, Lost, Open, Part, Pause, Plan, Receive, Request, Send
from reprieve.client.http.streams import Lines
from reprieve.models.errors import LogUnavailable, Unavailable
from reprieve.models.filters import RunFilter
from reprieve.models.output import LogItem
from reprieve.models.records import Run

#: Of the time that there is for an answer, one try may take a third: a connection that is only half open is noticed …
TRIES = 3
#: … and some seconds at least.
SHORTEST_TRY = 1.0
#: … and after minutes at the most, for however long it is tried.
LONGEST_TRY = 300.0
#: Seconds without a byte after which a stream is taken for lost: the server sends a comment every 15.
SILENCE = 45.0


def answered(request: Request, backoff: Backoff) -> Part[Answer]:
    """The answer to a request, which is sent again while the server is away; raises what it refuses."""
    return (yield from _answered(Send(request, *_limits(backoff)), backoff))


def opened(request: Request, content_type: str, backoff: Backoff) -> Part[Answer]:
    """The same for a stream of this type, which is then to be received."""
    answer = yield from _answered(Open(request, *_limits(backoff), SILENCE), backoff)
    if answer.status == HTTPStatus.OK and not answer.headers.get("content-type", "").startswith(content_type):
        raise calls.not_understood("another type")
    return answer


def _limits(backoff: Backoff) -> tuple[float, float]:
    """Seconds for each part of an answer, and for all of it: an answer that comes slowly has the time of all tries."""
    seconds = min(max(backoff.seconds / TRIES, SHORTEST_TRY), LONGEST_TRY)
    return seconds, max(backoff.seconds, seconds)


def _answered(step: Send | Open, backoff: Backoff) -> Part[Answer]:
    backoff.start()
    while True:
        reply: Answer | Lost = yield step
        if isinstance(reply, Answer) and reply.status < 300:
            return reply
        if not calls.is_not_now(reply):
            raise calls.refusal(reply)
        pause = backoff.pause(calls.wait_asked(reply))
        if pause is None:
            raise calls.refusal(reply)
        yield Pause(pause)


def run(request: Request, backoff: Backoff) -> Plan[Run]:
    """The run that a request is answered with."""
    yield Give(calls.run_of((yield from answered(request, backoff))))


def get_result(run_id: UUID, backoff: Backoff) -> Plan[Any]:
    """What a run has given, if it says that it has given anything."""
    found = calls.run_of((yield from answered(calls.get_run(run_id), backoff)))
    if found.report is None or found.report.result_bytes is None:
        yield Give(None)
    else:
        yield Give(calls.json_of((yield from answered(calls.get_result(run_id), backoff))))


def enqueue_runs(request: Request, backoff: Backoff) -> Plan[list[Run]]:
    """The runs that were asked for."""
    yield Give(calls.runs_of((yield from answered(request, backoff))))


def list_runs(wanted: RunFilter, backoff: Backoff) -> Plan[Run]:
    """All runs that are wanted, a page at a time."""
    before: UUID | None = None
    while True:
        page = calls.page_of((yield from answered(calls.list_runs(wanted, before), backoff)))
        for one in page.runs:
            yield Give(one)
        if page.next is None:
            return
        before = page.next


def wait_for(run_id: UUID, waiting: Waiting, backoff: Backoff) -> Plan[Run]:
    """The run, once it has ended."""
    backoff = backoff.beside(min(backoff.seconds, waiting.seconds))
    while not (found := calls.run_of((yield from answered(calls.get_run(run_id), backoff)))).status.is_final:
        yield Pause(waiting.pause(found))
    yield Give(found)


def read_log(run_id: UUID, attempt: int | None, after: int, backoff: Backoff) -> Plan[LogItem]:
    """What is stored of an attempt's log; a download that is cut off goes on behind the last item."""
    if attempt is None:
        attempt = calls.run_of((yield from answered(calls.get_run(run_id), backoff))).attempt
    cut = backoff.beside(backoff.seconds)
    while attempt:
        yield from opened(calls.read_log(run_id, attempt, after), "application/x-ndjson", backoff)
        lines = Lines()
        while data := (yield from _received()):
            for line in lines.feed(data):
                item = calls.line_of(attempt, line)
                if item is None:
                    return
                after = item.last
                cut.reset()
                yield Give(item)
        pause = cut.pause()
        if pause is None:
            raise Unavailable(f"The log of run {run_id}, attempt {attempt}, is cut off behind number {after}.")
        yield Pause(pause)


def follow_log(run_id: UUID, attempt: int, after: int, backoff: Backoff) -> Plan[LogItem]:
    """Everything from a place on until the run has ended; a stream that is cut off goes on at its last place.

    A reader comes back to a server that answers for as long as the run goes on; to an archive that does not, for as
    long as a call is repeated.
    """
    following, cut, archive = calls.Following(attempt, after), backoff.beside(inf), backoff.beside(backoff.seconds)
    while not following.has_ended:
        answer = yield from opened(calls.follow_log(run_id, following.place), "text/event-stream", backoff)
        if answer.status == HTTPStatus.NO_CONTENT:
            return
        following.begin()
        while not following.has_ended and (data := (yield from _received())):
            cut.reset()
            for item in following.hear(data):
                archive.reset()
                yield Give(item)
        if not following.has_ended:
            pause = archive.pause(following.asked) if following.trouble else cut.pause()
            if pause is None:
                raise LogUnavailable(following.trouble)
            yield Pause(pause)


def _received() -> Part[bytes]:
    """What comes next of a stream; nothing at its end, and where it is lost."""
    came: bytes | Lost = yield Receive()
    return b"" if isinstance(came, Lost) else came
