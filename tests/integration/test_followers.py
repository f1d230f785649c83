"""Followers bear what adapters do to the event loop that they are followed on."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from reprieve.models.work import Outcome, Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.followers import Followers
from reprieve.workers.supervision.followed import Followed
from tests.support.rows import in_process, kinds, status_of
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually


class Adapter:
    """Does what a test says, without a thread."""

    def __init__(self, act: Callable[[Work], Awaitable[Outcome]]) -> None:
        self._act = act

    async def execute(self, run: Work, context: Any) -> Outcome:
        return await self._act(run)


@pytest.fixture
def followed(services: Services) -> Followed:
    return Followed(services, direct_shipper(services))


@pytest.fixture
def followers(services: Services, followed: Followed) -> Followers:
    return Followers(services, followed, "runs@here", 10)


def has(services: Services, act: Callable[[Work], Awaitable[Outcome]]) -> None:
    services.adapters._built["process"] = Adapter(act)  # type: ignore[assignment]


def test_an_adapter_that_cancels_its_own_task_does_not_cancel_what_records_its_end(
    services: Services, followers: Followers
) -> None:
    async def cancel_itself(_: Work) -> Outcome:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        return Outcome()

    has(services, cancel_itself)
    work = in_process(services)
    followers.begin(work)
    eventually(lambda: status_of(services, work.run_id) == "succeeded")


def test_an_adapter_whose_task_is_cancelled_has_failed(services: Services, followers: Followers) -> None:
    async def cancel_itself(_: Work) -> Outcome:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(600)
        return Outcome()

    has(services, cancel_itself)
    work = in_process(services)
    followers.begin(work)
    eventually(lambda: status_of(services, work.run_id) == "failed")
    assert "CancelledError" in str(services.runs.get(work.run_id).error_message)


def test_an_adapter_that_ends_its_event_loop_ends_no_other_run_there(services: Services, followers: Followers) -> None:
    first, second = in_process(services), in_process(services)
    may_end = asyncio.Event()

    async def leave() -> None:
        raise SystemExit(3)

    async def act(run: Work) -> Outcome:
        if run == first:
            await may_end.wait()
        else:
            left = asyncio.create_task(leave())
            await asyncio.wait([left])
            may_end.set()
        return Outcome()

    has(services, act)
    for work in (first, second):
        followers.begin(work)
    eventually(lambda: [status_of(services, work.run_id) for work in (first, second)] == ["succeeded"] * 2)


def test_what_could_not_be_begun_was_not_followed_here(
    services: Services, followers: Followers, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    work = in_process(services)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", none)
        with pytest.raises(OSError):
            followers.begin(work)
    assert (followed.contexts(), followed.begun()) == ({}, set())
    has(services, _end)
    followers.begin(work)
    eventually(lambda: kinds(services, work.run_id)[-1] == "succeeded" and not followed.contexts())
    assert followed.begun() == {work.fence}


async def _end(_: Work) -> Outcome:
    return Outcome()
