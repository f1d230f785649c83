"""What the processes write of themselves: lines for people, or JSON objects for a collector, with the run they concern.

`about` names the run and the attempt for everything that is logged inside it, an adapter's own lines included. In
JSON they are fields; a line for people names them in its words.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import Any
from uuid import UUID

from reprieve.models.text import shown
from reprieve.workers import current

TEXT = "[%(asctime)s: %(levelname)s] %(message)s"

#: Celery's loggers that say, at INFO, that a message came, and that its task succeeded.
OF_EACH_MESSAGE = ("celery.worker.strategy", "celery.app.trace")

ABOUT: ContextVar[tuple[UUID, int | None] | None] = ContextVar("about", default=None)


@contextmanager
def about(run_id: UUID, attempt: int | None = None) -> Iterator[None]:
    """What this thread logs inside the block concerns this run."""
    before = ABOUT.set((run_id, attempt))
    try:
        yield
    finally:
        ABOUT.reset(before)


class Lines(logging.Formatter):
    """For people, as `inner` has it: a record begins a line, and nothing else does; what it quotes does not act.

    A traceback follows indented, so that no line of it can be taken for a record.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        plain = copy(record)
        plain.msg, plain.args, plain.exc_info, plain.exc_text, plain.stack_info = (
            shown(record.getMessage()),
            None,
            None,
            None,
            None,
        )
        lines = [self._inner.format(plain)]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        if record.stack_info:
            lines += record.stack_info.split("\n")
        return "\n    ".join([lines[0], *map(shown, lines[1:])])


def formatter() -> logging.Formatter:
    """How this process writes its lines, by `REPRIEVE_LOG_FORMAT`."""
    settings = current.settings()
    if settings.log_format != "json":
        return Lines(logging.Formatter(TEXT))
    from reprieve.workers.json_journal import Journal  # What it is made of comes with the extra `worker`.

    return Journal(settings.host_name)


def keep(logger: logging.Logger, loglevel: int | str | None = None, **_: Any) -> None:
    """Celery has set up its own format for people: it is kept to lines, or another is put in its place.

    What it says of each message is for whoever asks for everything: a fleet has hundreds in a second.
    """
    if loglevel == logging.INFO:
        for name in OF_EACH_MESSAGE:
            logging.getLogger(name).setLevel(logging.WARNING)
    as_json = current.settings().log_format == "json"
    for handler in logger.handlers:
        if as_json:
            handler.setFormatter(formatter())
        elif handler.formatter is not None and not isinstance(handler.formatter, Lines):
            handler.setFormatter(Lines(handler.formatter))
