"""What followers write shares a statement; what is the matter with one of them is the matter with no other."""

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from reprieve.models.work import Fence, Work
from reprieve.stores.runs.attempts import Start
from reprieve.workers.async_context import AsyncRunContext
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.recorder import Recorder, Together
from tests.support.rows import running
from tests.support.shipping import direct_shipper


async def dispatch(services: Services, recorder: Recorder, work: Work, handle: dict[str, Any]) -> None:
    context = RunContext(services, direct_shipper(services), work)
    await AsyncRunContext(context, recorder).on_dispatch(handle, None)


class Database:
    """Records starts, once it may; until then it is busy with the first that came."""

    def __init__(self, services: Services) -> None:
        self.is_busy, self.may_go_on = threading.Event(), threading.Event()
        self._persist = services.attempts.persist_free

    def persist(self, starts: Iterable[Start]) -> set[Fence]:
        self.is_busy.set()
        self.may_go_on.wait(60)
        return self._persist(starts)


@pytest.fixture
def database(services: Services, monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database(services)
    monkeypatch.setattr(services.attempts, "persist_free", database.persist)
    return database


async def until_they_wait(recorder: Recorder, count: int) -> None:
    while len(recorder._starts._waiting) != count:
        await asyncio.sleep(0.01)


def handles(services: Services, works: Iterable[Work]) -> list[dict[str, Any] | None]:
    return [services.runs.get_attempt(work.run_id, 1).handle for work in works]


def test_a_handle_that_can_never_be_stored_costs_no_other_attempt_its_start(
    services: Services, database: Database
) -> None:
    works, recorder, names = [running(services) for _ in range(5)], Recorder(services), ["0", "1", "n\0l", "3", "4"]

    async def all_of_them() -> list[Any]:
        said = [dispatch(services, recorder, work, {"name": name}) for work, name in zip(works, names, strict=True)]
        tasks = [asyncio.create_task(said.pop(0))]
        await asyncio.to_thread(database.is_busy.wait, 60)
        tasks += [asyncio.create_task(one) for one in said]
        await until_they_wait(recorder, 4)
        database.may_go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    came = asyncio.run(all_of_them())
    assert "u0000" in str(came.pop(2))
    assert came == [None] * 4
    assert handles(services, works) == [{"name": "0"}, {"name": "1"}, None, {"name": "3"}, {"name": "4"}]


def test_an_adapter_that_does_not_wait_for_its_record_keeps_no_other_from_its_own(
    services: Services, database: Database
) -> None:
    works, recorder = [running(services) for _ in range(3)], Recorder(services)

    async def impatient(work: Work) -> None:
        async with asyncio.timeout(0.05):
            await dispatch(services, recorder, work, {"name": "late"})

    async def all_of_them() -> None:
        first = asyncio.create_task(dispatch(services, recorder, works[0], {"name": "first"}))
        await asyncio.to_thread(database.is_busy.wait, 60)
        with pytest.raises(TimeoutError):
            await impatient(works[1])
        database.may_go_on.set()
        async with asyncio.timeout(30):
            await dispatch(services, recorder, works[2], {"name": "job"})
            await first

    asyncio.run(all_of_them())
    assert handles(services, works) == [{"name": "first"}, None, {"name": "job"}]


def test_what_writes_for_many_goes_on_whatever_becomes_of_a_write() -> None:
    def write(items: list[Any]) -> list[Any]:
        if items[0] == "ends":
            raise SystemExit(1)
        return [] if items[0] == "says nothing" else items

    together: Together[Any, Any] = Together(write, "test")  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        together.write("ends").result(30)
    with pytest.raises(ValueError):
        together.write("says nothing").result(30)
    assert together.write("is well").result(30) == "is well"
