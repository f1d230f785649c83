"""Waiting until the environment is fit again."""

import pytest

from reprieve.workers import waiting
from reprieve.workers.waiting import until_fit


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_PAUSE", 0.0)


class Flaky:
    """Fails with these errors, one after the other, and then gives "done"."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_what_is_unfit_is_tried_again_and_each_try_is_said() -> None:
    said = list[tuple[int, str]]()
    act = Flaky(ConnectionError("it is down"), TimeoutError("it is slow"))
    assert until_fit(act, lambda number, why: said.append((number, why)), longest=0) == "done"
    assert [number for number, _ in said] == [1, 2]
    assert "it is down" in said[0][1]


def test_what_waiting_does_not_mend_is_raised_at_once() -> None:
    act = Flaky(ValueError("ours"), ConnectionError())
    with pytest.raises(ValueError, match="ours"):
        until_fit(act, longest=0)
    assert len(act.errors) == 1


def test_it_can_be_told_what_to_try_again() -> None:
    assert until_fit(Flaky(ValueError("content")), longest=0, again=lambda _: True) == "done"


def test_it_stops_when_told_to_and_raises_the_last_error() -> None:
    act, tries = (
        Flaky(ConnectionError("first"), ConnectionError("second"), ConnectionError("third")),
        iter([False, True]),
    )
    with pytest.raises(ConnectionError, match="second"):
        until_fit(act, longest=0, stop=lambda _: next(tries))
