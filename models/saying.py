"""What a run says of itself: how far it is, a sentence, a result, and what it has used, as named numbers. Pure.

A *report* has any of these. Of an attempt, the reports taken so far are one report again: the newest progress, sentence
and result, and the sums of its usage. They have numbers that grow, and what is kept has the number of the last one that
it holds: a report that comes again, by whatever way, is counted once.

What a run says comes from strangers: it is bounded, and holds nothing that PostgreSQL or JSON cannot.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeGuard

from reprieve.models.errors import InvalidRequest
from reprieve.models.text import as_given, is_plain_text, span
from reprieve.models.work import storable

#: The variable in which a command finds the file that it may say something in, a line of JSON for each report.
VARIABLE = "REPRIEVE_REPORT"

#: Characters of a sentence. A longer one is cut: what else was said with it counts.
MAX_SENTENCE = 500
#: Bytes of a result, as JSON without spaces, in UTF-8.
MAX_RESULT_BYTES = 64 * 1024
#: Names of usage of one attempt, the characters of each, and the largest number that one report may add.
MOST_NAMES, MAX_NAME, MOST_USED = 50, 64, 1e15
#: Bytes of a line of the file: a result of the largest size, in which every character is escaped.
MAX_LINE = 512 * 1024
#: Bytes of the file that are read: what only grows has an end.
MAX_FILE = 16 * 1024 * 1024

FIELDS = ("progress", "say", "result", "usage")

Number = int | float
Mask = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Report:
    """What was said, by one report or by several together. None: nothing of that."""

    progress: float | None = None
    """From 0 to 1."""
    sentence: str | None = None
    """Empty: what was said before holds no more."""
    result: str | None = None
    """JSON."""
    usage: Mapping[str, Number] = field(default_factory=dict)

    def then(self, later: "Report") -> "Report":
        """This report and a later one, as one. Raises `InvalidRequest` where that has too many names of usage."""
        usage = dict(self.usage)
        for name, number in later.usage.items():
            usage[name] = usage.get(name, 0) + number
        together(usage, ())
        return Report(
            self.progress if later.progress is None else later.progress,
            self.sentence if later.sentence is None else later.sentence,
            self.result if later.result is None else later.result,
            usage,
        )

    @property
    def is_one(self) -> bool:
        """Whether one report may say all of this: sums may be more."""
        return all(number <= MOST_USED for number in self.usage.values())

    def as_given(self) -> dict[str, Any]:
        """As `report_of` takes it, if one report may say it."""
        result = None if self.result is None else json.loads(self.result)
        given = {"progress": self.progress, "say": self.sentence, "result": result, "usage": dict(self.usage) or None}
        return {name: value for name, value in given.items() if value is not None}


NOTHING = Report()


def together(names: Iterable[str], more: Iterable[str]) -> frozenset[str]:
    """The names of usage of one attempt. Raises `InvalidRequest` where they are too many."""
    all_of_them = frozenset(names).union(more)
    if len(all_of_them) > MOST_NAMES:
        raise InvalidRequest(f"usage has more than {MOST_NAMES} names by now; give fewer.")
    return all_of_them


@dataclass(frozen=True, slots=True)
class Said:
    """All that was said by the reports up to a number, of one attempt."""

    number: int = 0
    report: Report = NOTHING

    def take(self, number: int, report: Report) -> "Said":
        """With this report, unless it was taken before. Raises as `Report.then` does: it is not taken then."""
        return self if number <= self.number else Said(number, self.report.then(report))


NOTHING_SAID = Said()


def report_of(given: object, mask: Mask = str) -> Report:
    """What was given as a report, checked. `mask` is what becomes of each text in it.

    Raises `InvalidRequest`, whose sentence says what is wrong and what would do.
    """
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"a report is an object with any of {', '.join(FIELDS)}; this is {_told(given, mask)}.")
    if unknown := [name for name in given if name not in FIELDS]:
        raise InvalidRequest(f"a report has any of {', '.join(FIELDS)}, and no {as_given(mask(str(unknown[0])), 60)}.")
    report = Report(
        _progress(given.get("progress"), mask),
        _sentence(given.get("say"), mask),
        _result(given.get("result"), mask),
        _usage(given.get("usage"), mask),
    )
    if report == NOTHING:
        raise InvalidRequest(f"a report says something; give any of {', '.join(FIELDS)}.")
    return report


def report_of_line(line: bytes, mask: Mask = str, *, is_whole: bool = True) -> Report:
    """A report as a line of a file has it; one of which not all was kept is too long. Raises `InvalidRequest`."""
    if not is_whole or len(line) > MAX_LINE:
        raise InvalidRequest(f"it has more than {MAX_LINE} bytes.")
    try:
        given = json.loads(line.decode())
    except (ValueError, RecursionError):
        shown = as_given(mask(line.decode(errors="replace")), 60)
        raise InvalidRequest(f"it is no JSON: {shown}.") from None
    return report_of(given, mask)


def _told(given: object, mask: Mask) -> str:
    """What a sentence may quote of what was given: a secret may be in it."""
    if isinstance(given, int | float):
        return as_given(given, 60) if isinstance(given, bool) else mask(as_given(given, 60))
    return f"of type {type(given).__name__}"


def _progress(given: object, mask: Mask) -> float | None:
    if given is None:
        return None
    if not _is_number(given) or not 0 <= given <= 1:
        raise InvalidRequest(f"progress is {_told(given, mask)}; give a number from 0 to 1.")
    return float(given)


def _sentence(given: object, mask: Mask) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise InvalidRequest(f"say is {_told(given, mask)}; give a sentence.")
    # Masked before it is cut: half a secret is not found.
    line = " ".join(storable(mask(given)).split())
    return line if len(line) <= MAX_SENTENCE else line[: MAX_SENTENCE - 1] + "…"


def _result(given: object, mask: Mask) -> str | None:
    if given is None:
        return None
    try:
        text = json.dumps(_masked(storable(given), mask), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (RecursionError, ValueError):
        raise InvalidRequest("result is nested too deeply, or has a number that is too long.") from None
    if (size := len(text.encode())) > MAX_RESULT_BYTES:
        raise InvalidRequest(
            f"result has {size} bytes as JSON, of {MAX_RESULT_BYTES} at the most; keep it elsewhere, and say where."
        )
    return text


def _masked(value: Any, mask: Mask) -> Any:
    """JSON whose texts, and numbers that a text would be masked for, are masked."""
    match value:
        case str():
            return mask(value)
        case dict():
            return {mask(name): _masked(inner, mask) for name, inner in value.items()}
        case list():
            return [_masked(inner, mask) for inner in value]
        case None | bool():
            return value
        case _:
            return value if (text := mask(str(value))) == str(value) else text


def _usage(given: object, mask: Mask) -> dict[str, Number]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"usage is {_told(given, mask)}; give names and numbers, for example tokens and 1200.")
    if len(given) > MOST_NAMES:
        raise InvalidRequest(f"usage has {len(given)} names; give {MOST_NAMES} at the most.")
    used: dict[str, Number] = {}
    for given_name, number in given.items():
        name = _name(given_name, mask)  # Two may be one by now.
        used[name] = used.get(name, 0) + _used(given_name, number, mask)
    return used


def _name(given: object, mask: Mask) -> str:
    if not isinstance(given, str) or not is_plain_text(given) or not given.isprintable() or not given.strip():
        raise InvalidRequest(f"usage: {as_given(mask(str(given)), 60)} is no name; give text that can be printed.")
    if len(given) > MAX_NAME:
        raise InvalidRequest(f"usage: a name has {len(given)} characters; give {MAX_NAME} at the most.")
    return mask(given)


def _used(name: str, given: object, mask: Mask) -> Number:
    if not _is_number(given) or not 0 <= given <= MOST_USED:
        raise InvalidRequest(
            f"usage: {as_given(mask(name), 70)} is {_told(given, mask)}; give a number from 0 to {MOST_USED:.0e}."
        )
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _is_number(given: object) -> TypeGuard[int | float]:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return isinstance(given, int) or math.isfinite(given)


# -- of a whole run


def of_run(rows: Iterable[Mapping[str, Any]], attempt: int) -> dict[str, Any] | None:
    """What a run has said, of what is kept of its attempts; `attempt` is the current one. None for nothing.

    Progress and sentence are of that one: a new attempt begins anew. Usage adds up over all of them, since all of it
    was used; the result is the newest there is.
    """
    ordered = sorted(rows, key=lambda row: row["attempt"])
    if not ordered:
        return None
    usage: dict[str, Number] = {}
    for row in ordered:
        for name, number in (row["usage"] or {}).items():
            usage[name] = usage.get(name, 0) + number
    current: Mapping[str, Any] = ordered[-1] if ordered[-1]["attempt"] == attempt else {}
    results = [row["result_bytes"] for row in ordered if row["result_bytes"] is not None]
    return {
        "progress": current.get("progress"),
        "sentence": current.get("sentence") or None,
        "at": current.get("at"),
        "usage": usage,
        "result_bytes": results[-1] if results else None,
    }


def percent(progress: float) -> str:
    """As people read it: whole percents, and 100 % for what is done alone."""
    return f"{math.floor(100 * progress + 1e-9)} %"


def in_numbers(usage: Mapping[str, Number]) -> str:
    """Usage in words: `cost_usd 0.42, tokens 1,200`."""
    return ", ".join(f"{name} {_shown(number)}" for name, number in sorted(usage.items()))


def _shown(number: Number) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.6g}" if number < 1e6 else f"{number:,.0f}"


def sentences_of(said: Mapping[str, Any] | None, now: datetime) -> list[str]:
    """What a person who asks about a run is told of what it said."""
    if said is None:
        return []
    lines = []
    parts = [percent(said["progress"])] if said["progress"] is not None else []
    parts += [said["sentence"]] if said["sentence"] else []
    if parts:
        lines.append(f"It said {span(now - said['at'])} ago: {', '.join(parts)}")
    if said["usage"]:
        lines.append(f"By its own account it used: {in_numbers(said['usage'])}.")
    if said["result_bytes"] is not None:
        lines.append(f"It gave a result of {said['result_bytes']} bytes of JSON; `reprieve result` prints it.")
    return lines
