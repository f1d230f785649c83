"""Text as strangers may choose it, and rows that hold it wherever rows take it."""

import json
import re

from sqlalchemy import text

from reprieve import enqueue_run
from reprieve.models.access import Scope
from reprieve.models.saying import Report, Said
from reprieve.models.status import EventKind
from reprieve.models.work import End, Outcome
from reprieve.stores.runs.reports import News
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import running

#: By name, what a label, a path, an error or a name may hold. None of it may reach a terminal as it is.
HOSTILE = {
    "an escape sequence": "\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\link",
    "C1 controls": "a\x9b31mred\x90q\x9c",
    "line ends of all kinds": "a\nRUN forged\r\nb\rc\vd\fe\x85f\u2028g\u2029h\x1c\x1d\x1e",
    "bidirectional controls": "\u202egnp.exe\u202c \u2066x\u2069 \u200f\u061c",
    "what has no width": "a\u200bb\u200c\u200d\u2060\ufeff\u00ad\u034f\U000e0041\u180e",
    "blanks that are none": "\u3164\u115f\u1160\uffa0\u2800\u00a0\u3000",
    "backspace and delete": "good\b\b\b\bevil\x7f",
    "markup": "[red]alarm[/] [/] [link=http://evil.example]x[/link] [bold]:smile: {0} %s %(name)s",
    "brackets that open nothing": "[/] ]] [[ [/not-open]",
}

ACTS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def rows_with(services: Services, evil: str, number: int) -> str:
    """Rows that hold such text wherever rows take it; the run that has ended."""
    enqueue_run("process", {"command": ["true", evil], "cwd": f"/{evil}", "env": {"A": evil}}, labels={evil: evil})
    failed = running(services, labels={"team": evil})
    services.runs.tell_once(failed.run_id, 1, EventKind.NOTED, {"note": evil, evil: evil})
    finish(services, [End.by_result(failed.fence, Outcome.failed(evil), 3)])
    services.tokens.create(f"{number}{evil}"[:60], Scope.READ)
    with services.database.begin() as connection:
        names = {"evil": evil, "id": failed.run_id}
        connection.execute(text("UPDATE run_attempts SET worker_node = :evil, host = :evil WHERE run_id = :id"), names)
    said = Report(0.5, evil, json.dumps({evil: evil}), {evil: 1})
    services.reports.write([News(failed.fence, failed.attempt, Said(1, said), 0.0)])
    return str(failed.run_id)
