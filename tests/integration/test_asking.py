"""Asking the platforms: many at once, in parallel, within a limit; whoever does not say has said UNKNOWN."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reprieve.adapters import registry
from reprieve.adapters.command_config import CommandConfig
from reprieve.models.status import Probe
from reprieve.models.work import Fence, Outcome, Work
from reprieve.workers import asking
from reprieve.workers.asking import answer_questions, ask
from reprieve.workers.bootstrap import Services
from reprieve.workers.identity import Identity
from tests.support.nodes import a_node
from tests.support.rows import record_handle, running
from tests.support.waiting import eventually

Say = Callable[[Sequence[dict[str, Any]]], list[Probe]]


def adapter_class(name: str, say: Say | None) -> Any:
    """An adapter that answers with `say`, or cannot be asked."""

    class Scripted:
        type = name
        has_out_of_process_liveness = True
        config_model = CommandConfig

        def __init__(self, folder: Path, host: str) -> None: ...

        def execute(self, run: Work, context: Any) -> Outcome:
            raise NotImplementedError

        def terminate(self, handle: dict[str, Any]) -> None: ...

    if say is not None:
        Scripted.probe = lambda self, handles: say(handles)  # type: ignore[attr-defined]
    return Scripted


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Have these adapters installed beside the real ones."""
    real = dict(registry.adapter_classes())
    asking._asked.clear()

    def put(**says: Say | None) -> None:
        real.update({name: adapter_class(name, say) for name, say in says.items()})
        monkeypatch.setattr(registry, "adapter_classes", lambda: real)

    yield put
    asking._asked.clear()


def dispatched(services: Services, adapter: str, host: str | None = None, **handle: Any) -> Fence:
    work = running(services, adapter=adapter)
    record_handle(services, work.fence, host, handle)
    return work.fence


def in_a_hurry(services: Services, seconds: float = 0.5) -> Services:
    return replace(services, timing=replace(services.timing, ask_limit=timedelta(seconds=seconds)))


def everything_is(answer: Probe) -> Say:
    return lambda handles: [answer] * len(handles)


def test_each_adapter_is_asked_once_for_all_of_its_work(services: Services, install: Install) -> None:
    asked: list[int] = []

    def say(handles: Sequence[dict[str, Any]]) -> list[Probe]:
        asked.append(len(handles))
        return [Probe(handle["is"]) for handle in handles]

    install(cloud=say, other=everything_is(Probe.DEAD))
    alive, gone = dispatched(services, "cloud", **{"is": "alive"}), dispatched(services, "cloud", **{"is": "dead"})
    third = dispatched(services, "other")
    answers = ask(services, [alive, gone, third])
    assert answers == {alive.run_id: Probe.ALIVE, gone.run_id: Probe.DEAD, third.run_id: Probe.DEAD}
    assert asked == [2]


def test_nobody_is_asked_about_work_without_a_handle_or_of_an_adapter_that_cannot_be_asked(
    services: Services, install: Install
) -> None:
    install(cloud=everything_is(Probe.ALIVE), dumb=None)
    started_nothing = running(services, adapter="cloud").fence
    assert ask(services, [started_nothing, dispatched(services, "dumb")]) == {}
    assert ask(services, []) == {}


def test_nothing_is_known_of_the_work_of_an_adapter_that_raises_and_others_are_asked_all_the_same(
    services: Services, install: Install
) -> None:
    def fail(handles: Sequence[dict[str, Any]]) -> list[Probe]:
        raise RuntimeError("the platform is away")

    install(broken=fail, cloud=everything_is(Probe.ALIVE))
    broken, well = dispatched(services, "broken"), dispatched(services, "cloud")
    assert ask(services, [broken, well]) == {broken.run_id: Probe.UNKNOWN, well.run_id: Probe.ALIVE}


@pytest.mark.parametrize("wrong", [[], [Probe.ALIVE] * 3, ["perhaps"]], ids=["too few", "too many", "no answer"])
def test_an_answer_that_is_none_is_doubt(services: Services, install: Install, wrong: list[Any]) -> None:
    install(cloud=lambda handles: wrong)
    fence = dispatched(services, "cloud")
    assert ask(services, [fence]) == {fence.run_id: Probe.UNKNOWN}


def test_a_handle_that_its_adapter_cannot_bear_costs_no_other_its_answer(services: Services, install: Install) -> None:
    def say(handles: Sequence[dict[str, Any]]) -> list[Probe]:
        return [Probe(handle["is"]) for handle in handles]

    install(cloud=say)
    poisoned = dispatched(services, "cloud", poison=True)
    others = [dispatched(services, "cloud", **{"is": "alive"}) for _ in range(10)]
    answers = ask(services, [poisoned, *others])
    assert answers == {poisoned.run_id: Probe.UNKNOWN} | {fence.run_id: Probe.ALIVE for fence in others}


@contextmanager
def hanging() -> Iterator[tuple[Say, list[int]]]:
    """An adapter that does not answer while the block lasts, and how often it was asked."""
    over, asked = threading.Event(), list[int]()

    def hang(handles: Sequence[dict[str, Any]]) -> list[Probe]:
        asked.append(len(handles))
        over.wait(60)
        return [Probe.DEAD] * len(handles)

    try:
        yield hang, asked
    finally:
        over.set()


def test_an_adapter_that_hangs_has_said_nothing_and_holds_up_no_other(services: Services, install: Install) -> None:
    with hanging() as (hang, _):
        install(stuck=hang, cloud=everything_is(Probe.ALIVE))
        stuck, well = dispatched(services, "stuck"), dispatched(services, "cloud")
        answers = ask(in_a_hurry(services), [stuck, well])
        assert answers == {stuck.run_id: Probe.UNKNOWN, well.run_id: Probe.ALIVE}


def test_an_adapter_that_still_hangs_is_not_asked_again_until_it_has_come_back(
    services: Services, install: Install
) -> None:
    with hanging() as (hang, asked):
        install(stuck=hang)
        fence = dispatched(services, "stuck")
        for _ in range(3):
            assert ask(in_a_hurry(services, 0.2), [fence]) == {fence.run_id: Probe.UNKNOWN}
        assert asked == [1]
    eventually(lambda: ask(services, [fence])[fence.run_id] is Probe.DEAD)


# -- work that only its own host can look at


def answers_in_the_background(services: Services) -> threading.Thread:
    def look() -> None:
        eventually(lambda: answer_questions(services), timeout=20)

    thread = threading.Thread(target=look)
    thread.start()
    return thread


def there(services: Services, host: str) -> Services:
    """The same system as a worker of another host has it."""
    settings = services.settings.model_copy(update={"node_name": host})
    return replace(services, settings=settings, identity=Identity(settings))


def test_work_of_another_host_is_asked_about_through_a_worker_of_that_host(
    services: Services, install: Install
) -> None:
    install(local=everything_is(Probe.DEAD))
    services.workers.seen(UUID(int=1), "runs@far", a_node("far"))
    far = dispatched(services, "local", "far")
    answering = answers_in_the_background(there(services, "far"))
    assert ask(services, [far]) == {far.run_id: Probe.DEAD}
    answering.join()


def test_a_host_that_does_not_answer_in_time_is_in_doubt(services: Services, install: Install) -> None:
    install(local=everything_is(Probe.DEAD))
    services.workers.seen(UUID(int=1), "runs@far", a_node("far"))
    far, near = dispatched(services, "local", "far"), dispatched(services, "local", services.host)
    assert ask(in_a_hurry(services), [far, near]) == {far.run_id: Probe.UNKNOWN, near.run_id: Probe.DEAD}


def test_a_host_without_a_worker_is_not_waited_for(services: Services, install: Install) -> None:
    install(local=everything_is(Probe.DEAD))
    far = dispatched(services, "local", "far")
    assert ask(services, [far]) == {far.run_id: Probe.UNKNOWN}
    assert services.questions.unanswered(a_node("far")) == []


def test_an_answer_to_an_earlier_sweep_is_none_to_this_one(services: Services, install: Install) -> None:
    install(local=everything_is(Probe.ALIVE))
    services.workers.seen(UUID(int=1), "runs@far", a_node("far"))
    far = dispatched(services, "local", "far")
    answering = answers_in_the_background(there(services, "far"))
    assert ask(services, [far]) == {far.run_id: Probe.ALIVE}
    answering.join()
    assert ask(in_a_hurry(services), [far]) == {far.run_id: Probe.UNKNOWN}
