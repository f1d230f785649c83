"""Rounds: each rival once per round, in turn, so that a noisy machine is noisy for all of them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: What one run of one rival gives: figures by name.
Figures = Mapping[str, float]


@dataclass
class Result:
    """The figures of one benchmark: every round of every case, and notes that are no figures (a plan, a size)."""

    name: str
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, case: str, figures: Figures) -> None:
        self.rounds.setdefault(case, []).append(dict(figures))

    def median(self, case: str, figure: str) -> float:
        return statistics.median(one[figure] for one in self.rounds[case])

    def ratio(self, case: str, other: str, figure: str) -> float:
        """The median of the rounds' ratios: both were measured within the same minute."""
        pairs = zip(self.rounds[case], self.rounds[other], strict=True)
        return statistics.median(one[figure] / rival[figure] for one, rival in pairs)

    def as_json(self) -> dict[str, Any]:
        medians = {case: {name: self.median(case, name) for name in rounds[0]} for case, rounds in self.rounds.items()}
        return {"medians": medians, "rounds": self.rounds, "notes": self.notes}


def play(result: Result, rounds: int, rivals: Mapping[str, Callable[[], Figures]], say: Callable[[str], None]) -> None:
    """Run every rival once per round, in the order given."""
    for number in range(1, rounds + 1):
        for case, run in rivals.items():
            figures = run()
            result.add(case, figures)
            shown = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
            say(f"  round {number}/{rounds}  {case}: {shown}")


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of these lie; `ordered` is sorted."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent k of value ~ size^k, by least squares on the logarithms."""
    import numpy

    slope, _ = numpy.polyfit(numpy.log(sizes), numpy.log(values), 1)
    return float(slope)
