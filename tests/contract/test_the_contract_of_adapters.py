"""The contract that authors test their adapters with finds what it is there to find."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reprieve.adapters import host
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.protocol import AsyncContext, Outcome, Probe, Work
from reprieve.models.errors import Superseded
from reprieve.testing.contexts import AsyncRecordingContext
from reprieve.testing.contract import AdapterContract, attempt_of

LASTING = {"command": ["sh", "-c", "echo up; exec sleep 600"]}


class StartsWhatNoRowKnows(DetachedAdapter):
    async def execute(self, run: Work, context: AsyncContext) -> Outcome:
        try:
            return await super().execute(run, context)
        except Superseded:
            return Outcome.failed("Never mind.")


class ReadsAllOfItAgain(DetachedAdapter):
    async def attach(self, run: Work, handle: dict[str, Any], context: AsyncContext) -> Outcome:
        context.cursor = None
        return await super().attach(run, handle, context)


class TakesAllForAlive(DetachedAdapter):
    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        return [Probe.ALIVE for _ in handles]


class EndsTheNextOneToo(DetachedAdapter):
    async def execute(self, run: Work, context: AsyncContext) -> Outcome:
        assert isinstance(context, AsyncRecordingContext)
        self.contexts = [*getattr(self, "contexts", []), context]
        return await super().execute(run, context)

    def terminate(self, handle: dict[str, Any]) -> None:
        for context in self.contexts:
            super().terminate(context._context.handle)


@pytest.mark.parametrize(
    ("broken", "found_by"),
    [
        (StartsWhatNoRowKnows, "test_work_that_could_not_be_recorded_is_not_started"),
        (ReadsAllOfItAgain, "test_work_is_followed_by_another_from_where_the_first_has_left_it"),
        (TakesAllForAlive, "test_a_platform_says_of_each_work_whether_it_lives"),
        (EndsTheNextOneToo, "test_to_terminate_twice_is_no_error_and_another_attempt_is_left_alone"),
    ],
)
def test_a_broken_adapter_is_found_out(
    broken: type[DetachedAdapter], found_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "TERMINATE_GRACE", 0.3)
    monkeypatch.setattr("reprieve.testing.contract.PATIENCE", 5.0)
    adapter = broken(tmp_path, "here")
    test = getattr(AdapterContract(), found_by)
    given = {"adapter": adapter, "attempt": attempt_of(adapter, LASTING), "other": attempt_of(adapter, LASTING)}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(**{name: given[name] for name in inspect.signature(test).parameters})
