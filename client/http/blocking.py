"""The client that waits: it carries out plans on its caller's thread."""

import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakSet

import httpx2

from reprieve.client.arguments import SomeRun, check_place, id_of
from reprieve.client.backoff import Backoff, Waiting
from reprieve.client.http import calls, plans
from reprieve.client.http.address import Address, Body, answer_of, why
from reprieve.client.http.steps import Answer, Give, Lost, Open, Pause, Plan, Receive, Send, Step, advance
from reprieve.models.filters import RunChoice, RunFilter
from reprieve.models.output import LogItem
from reprieve.models.records import Run
from reprieve.models.requests import RunOptions, RunRequest, asked_for

T = TypeVar("T")


class Client:
    """Starts, reads, follows and ends runs over HTTP.

        with Client("https://reprieve.example.com", token) as client:
            run = client.enqueue_run("process", {"command": ["make", "report"]})
            ended = client.wait_for(run, timeout=600)

    Each method takes, gives and raises what the function of that name in `reprieve` does, and `NotAllowed` and
    `Unavailable` as well. A call is repeated while the API is away, for `timeout` seconds; a reader whose stream is cut
    off comes back to its place. Threads may share a client, and both sides of a fork.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        """Connects when it is first used. Raises `InvalidRequest`."""
        self._address = Address(url, token, timeout)
        #: By process: what was connected before a fork is the parent's.
        self._connections: dict[int, httpx2.Client] = {}
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of this process. The client cannot be used any more."""
        self._is_closed = True
        held = self._connections.pop(os.getpid(), None)
        if held is not None:
            held.close()

    def enqueue_run(
        self,
        adapter: str,
        config: Mapping[str, Any],
        **options: Unpack[RunOptions],
    ) -> Run:
        """Ask for a run, which is queued (or, for a known idempotency key, whatever it is by now)."""
        wanted = RunRequest.of({"adapter": adapter, "config": config, **options})
        return self._first(plans.run(calls.enqueue_run(wanted), self._backoff))

    def enqueue_runs(self, requests: Iterable[RunRequest | Mapping[str, Any]]) -> list[Run]:
        """Ask for many runs: all of them, or none. At most 10,000, and 2 MiB of JSON, at once."""
        return self._first(plans.enqueue_runs(calls.enqueue_runs(asked_for(requests)), self._backoff))

    def run_again(self, run: SomeRun, *, idempotency_key: str | None = None) -> Run:
        """Ask for a new run that does again what this one, by its whole id, was asked for."""
        return self._first(plans.run(calls.run_again(id_of(run), idempotency_key), self._backoff))

    def cancel_run(self, run: SomeRun) -> Run:
        """End a run and its work, by its whole id; one that has ended stays as it is."""
        return self._first(plans.run(calls.cancel_run(id_of(run)), self._backoff))

    def get_result(self, run: SomeRun) -> Any:
        """The newest result that a run has given, as JSON has it; None for none."""
        return self._first(plans.get_result(id_of(run), self._backoff))

    def get_run(self, run: SomeRun) -> Run:
        """A run and its attempts."""
        return self._first(plans.run(calls.get_run(id_of(run)), self._backoff))

    def list_runs(self, **choice: Unpack[RunChoice]) -> Generator[Run]:
        """All runs, the newest first, or those that fit (`RunChoice`); read a page at a time."""
        return self._given(plans.list_runs(RunFilter.of(**choice), self._backoff))

    def wait_for(self, run: SomeRun, *, timeout: float | None = None) -> Run:
        """The run, once it has ended. Raises `StillRunning` after so many seconds."""
        return self._first(plans.wait_for(id_of(run), Waiting(timeout), self._backoff))

    def read_log(self, run: SomeRun, *, attempt: int | None = None, after: int = 0) -> Generator[LogItem]:
        """What is stored of an attempt's log, the last one's by default, behind the item of this number."""
        check_place(attempt, after)
        return self._given(plans.read_log(id_of(run), attempt, after, self._backoff))

    def follow_log(self, run: SomeRun, *, attempt: int = 1, after: int = 0) -> Generator[LogItem]:
        """The log from this place on as it comes, of all attempts, until the run has ended."""
        check_place(attempt, after)
        return self._given(plans.follow_log(id_of(run), attempt, after, self._backoff))

    @property
    def _backoff(self) -> Backoff:
        return Backoff(self._address.seconds)

    def _first(self, plan: Plan[T]) -> T:
        with closing(self._given(plan)) as given:
            return next(given)

    def _given(self, plan: Plan[T]) -> Generator[T]:
        """Carry out a plan, and give what it gives."""
        with closing(plan), closing(_Carrier(self._address, self._connected)) as carrier:
            step = advance(plan, None)
            while step is not None:
                if isinstance(step, Give):
                    yield step.item
                    step = advance(plan, None)
                else:
                    step = advance(plan, carrier.carry_out(step))

    def _connected(self) -> httpx2.Client:
        if self._is_closed:
            raise RuntimeError("This client is closed.")
        process = os.getpid()
        if process not in self._connections:
            self._connections.setdefault(process, self._address.connected(httpx2.Client))
        return self._connections[process]


class _Carrier:
    """Carries out steps, and holds the stream that is open."""

    def __init__(self, address: Address, connected: Callable[[], httpx2.Client]) -> None:
        self._address = address
        self._connected = connected
        self._process = os.getpid()
        self._opened: httpx2.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def carry_out(self, step: Step) -> Any:
        """What comes of a step."""
        try:
            match step:
                case Pause():
                    time.sleep(step.seconds)
                    return None
                case Receive():
                    return self._receive()
                case Open():
                    return self._open(step)
                case Send():
                    return _whole(self._answered(step), step)
        except httpx2.HTTPError as error:
            return Lost(why(error))

    def close(self) -> None:
        """End the open stream. In a child of the process that opened it, it is the parent's."""
        opened, self._opened = self._opened, None
        if opened is not None and self._process == os.getpid():
            opened.close()

    def _open(self, step: Open) -> Answer:
        self.close()
        response = self._answered(step)
        if response.status_code != httpx2.codes.OK:
            return _whole(response, step)
        self._process, self._opened, self._pieces = os.getpid(), response, response.iter_bytes()
        return answer_of(response)

    def _receive(self) -> bytes | Lost:
        if self._process != os.getpid():
            return Lost("the process has forked")
        return next(self._pieces, b"")

    def _answered(self, step: Send | Open) -> httpx2.Response:
        http = self._connected()
        response = http.send(http.build_request(**self._address.of(step)), stream=True)
        _sockets.add(response.extensions["network_stream"].get_extra_info("socket"))
        return response


def _whole(response: httpx2.Response, step: Send | Open) -> Answer:
    with closing(response):
        body = Body(step.whole)
        for piece in response.iter_bytes():
            body.take(piece)
        return answer_of(response, body.whole)


#: Those that this process has received an answer on.
_sockets: WeakSet[socket.socket] = WeakSet()


def _let_go() -> None:
    """In a child of a fork: what the parent closes is to end, and would not while a child holds it, too.

    The sockets themselves: to close the pool that has them takes a lock, which another thread may have held.
    """
    for one in list(_sockets):
        one.close()


os.register_at_fork(after_in_child=_let_go)
