"""A run's output on this terminal: the bytes as they came, each stream to its own, and the command's exit status."""

import sys
from collections.abc import Iterable

from reprieve.cli.sentences import say
from reprieve.models.chunks import Chunk
from reprieve.models.gaps import Gap
from reprieve.models.records import Run
from reprieve.models.status import Status

#: What a shell says of a command that a signal ended: this and the signal's number.
SIGNAL_BASE = 128


def write(items: Iterable[Chunk | Gap], *, stream: str | None = None, raw: bool = False) -> bool:
    """Write chunks as they come; a gap is reported on standard error. Returns whether there was none.

    `stream` chooses one of them; `raw` writes it to standard output, whichever it is.
    """
    whole = True
    for item in items:
        if isinstance(item, Gap):
            whole = False
            say(f"attempt {item.attempt}: chunks {item.first} to {item.last} {item.why.in_words}", problem=True)
        elif stream is None or item.stream == stream:
            output = sys.stderr.buffer if item.stream == "stderr" and not raw else sys.stdout.buffer
            output.write(item.data)
            if not raw:
                output.flush()
    sys.stdout.buffer.flush()
    return whole


def exit_status(run: Run) -> int:
    """The status to exit with after a run: the command's own where there is one, as a shell would give it."""
    if run.status == Status.SUCCEEDED:
        return 0
    outcome = (run.attempts[-1].outcome or {}) if run.attempts else {}
    if "signal" in outcome:
        return SIGNAL_BASE + int(outcome["signal"])
    return int(outcome.get("exit_status") or 1)
