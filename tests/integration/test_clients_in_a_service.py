"""Clients in the processes of services: event loops that tick, tasks that are cancelled, forks, servers that hang."""

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import httpx2
import pytest
from pydantic import SecretStr

from reprieve import InvalidRequest, NotAllowed, Run, RunNotFound, RunRequest, SettingsError, Unavailable, aio
from reprieve.client import AsyncClient, Client
from reprieve.client import logs as client_logs
from reprieve.client import runs as client_runs
from reprieve.client.http import plans
from reprieve.models.access import Scope
from reprieve.models.work import End, Outcome
from reprieve.workers import bootstrap
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.conftest import Servers
from tests.support.askers import WAYS, Awaited, asking
from tests.support.gateway import Gateway, Way
from tests.support.http import TOKEN, with_token
from tests.support.rows import chunk, ingest, new_run, running
from tests.support.served import Served
from tests.support.waiting import eventually

CONFIG = {"command": ["true"]}
#: Ticks of a loop, one each 5 ms, that must pass while something hangs: none would, if it held up the loop.
TICKS = 100


@pytest.fixture
def served(services: Services) -> Iterator[Served]:
    made = Served(with_token(with_token(services), Scope.READ, "may-read"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def way(served: Served) -> Iterator[Gateway]:
    """A way to the API that can be cut."""
    with Gateway(served.url) as gateway:
        yield gateway


# -- the loop


async def _tick() -> None:
    for _ in range(TICKS):
        await asyncio.sleep(0.005)


def test_a_loop_ticks_on_while_the_database_or_the_broker_hangs_and_the_call_is_made_in_the_end(
    services: Services, servers: Servers
) -> None:
    """Both were reached before: what hangs is a call in the middle, not only a connection that is made."""

    async def scenario(database: Gateway, redis: Gateway) -> None:
        run = await aio.enqueue_run("process", CONFIG)
        assert (await aio.get_run(run)).id == run.id
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: aio.enqueue_run("process", CONFIG),
            lambda: aio.enqueue_runs([{"adapter": "process", "config": CONFIG}]),
            lambda: aio.cancel_run(run),
            lambda: aio.get_run(run),
            lambda: aio.wait_for(run),
            lambda: anext(aio.list_runs()),
            lambda: anext(aio.follow_log(run), None),
            lambda: anext(aio.read_log(run), None),
        ]
        database.turn(Way.SILENT)
        redis.turn(Way.SILENT)
        pending = [asyncio.ensure_future(call()) for call in calls]
        await _tick()
        assert not any(task.done() for task in pending)
        database.turn(Way.OPEN)
        ended = await asyncio.gather(*pending)
        assert ended[4].status == "cancelled"
        ticks = asyncio.ensure_future(_tick())
        assert (await aio.enqueue_run("process", CONFIG)).status == "queued"
        redis.turn(Way.OPEN)
        await ticks

    with Gateway(servers.postgres.url) as database, Gateway(servers.redis.url) as redis:
        with through(services, database_url=database.url, redis_url=redis.url):
            asyncio.run(scenario(database, redis))


def test_a_task_that_is_cancelled_follows_and_waits_no_longer_and_holds_no_connection(
    services: Services, served: Served
) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])

    async def follow(client: Any, reached: asyncio.Event) -> None:
        async for _ in client.follow_log(work.run_id):
            reached.set()

    async def scenario() -> int:
        async with AsyncClient(served.url, TOKEN) as client:
            for asked in (aio, client):
                reached = asyncio.Event()
                tasks = [asyncio.ensure_future(follow(asked, reached)) for _ in range(20)]
                tasks.append(asyncio.ensure_future(asked.wait_for(work.run_id)))
                await asyncio.wait_for(reached.wait(), 30)
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(result, asyncio.CancelledError) for result in results), results
        return threading.active_count()

    asyncio.run(scenario())
    eventually(lambda: served.app.state.hub.readers == 0)
    eventually(lambda: not served.connections)
    eventually(lambda: services.database.engine.pool.checkedout() == 0)  # type: ignore[attr-defined]
    assert sum(thread.name.startswith("reprieve-aio") for thread in threading.enumerate()) <= aio.THREADS


def test_hundreds_of_followers_need_no_thread_each(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, seq) for seq in (1, 2)])

    async def follow() -> list[int]:
        return [item.last async for item in aio.follow_log(work.run_id)]

    async def scenario() -> list[list[int]]:
        followers = [asyncio.ensure_future(follow()) for _ in range(200)]
        await aio.get_run(work.run_id)
        await asyncio.to_thread(finish, services, [End.by_result(work.fence, Outcome(), 2)])
        return await asyncio.gather(*followers)

    assert asyncio.run(scenario()) == [[1, 2]] * 200


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_client_for_asyncio_connects_anew_in_another_event_loop(services: Services, served: Served) -> None:
    """What an event loop leaves open when it ends, Python warns of."""
    run, client = new_run(services), AsyncClient(served.url, TOKEN)

    async def ask() -> Run:
        return await client.get_run(run.id)

    async def leave_early() -> None:
        async with aclosing(client.list_runs()) as runs:
            assert (await anext(runs)).id == run.id
        await client.aclose()

    assert asyncio.run(ask()) == asyncio.run(ask()) == run
    asyncio.run(leave_early())
    gc.collect()


def test_the_context_of_a_caller_is_that_of_its_call(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a trace is, above all."""
    place = ContextVar("place", default="nowhere")
    seen = []
    monkeypatch.setattr(aio.runs, "get_run", lambda run: seen.append(place.get()))
    place.set("here")
    asyncio.run(aio.get_run(new_run(services)))
    assert seen == ["here"]


# -- forks

FORKING = """
import asyncio, os, sys
from reprieve import aio
from reprieve.client import Client
url, token, run_id = sys.argv[1:]

def ask(client):
    for _ in range(20):
        assert str(client.get_run(run_id).id) == run_id
        assert client.enqueue_run("process", {"command": ["true"]}).status == "queued"
    assert str(asyncio.run(aio.get_run(run_id)).id) == run_id

client = Client(url, token)
follower = iter(client.follow_log(run_id))
assert next(follower).data == b"line 1\\n"
ask(client)
children = []
for _ in range(4):
    if not (child := os.fork()):
        try:
            ask(client)
            assert [item.data for item in follower] == [b"line 2\\n", b"line 3\\n"]
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
ask(client)
print("asked", flush=True)
ends = [os.waitpid(child, 0)[1] for child in children]
assert [item.data for item in follower] == [b"line 2\\n", b"line 3\\n"]
client.close()
assert ends == [0, 0, 0, 0], ends
"""


@pytest.mark.row("G13")
def test_a_client_is_used_on_both_sides_of_a_fork_and_a_stream_that_was_open_goes_on_on_both(
    services: Services, served: Served
) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"line 1\n")])
    arguments = [sys.executable, "-W", "error", "-c", FORKING, served.url, TOKEN, str(work.run_id)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n", process.communicate(timeout=60)
        ingest(services, [chunk(work, seq, b"line %d\n" % seq) for seq in (2, 3)])
        finish(services, [End.by_result(work.fence, Outcome(), 3)])
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert len(services.records.newest(limit=1000)) == 1 + 6 * 20


HOLDING = """
import os, sys
from reprieve.client import Client
client = Client(sys.argv[1], sys.argv[2])
follower = client.follow_log(sys.argv[3])
next(follower)
client.get_run(sys.argv[3])
child, other = os.pipe()
if os.fork() == 0:
    os.close(other)
    os.read(child, 1)  # Until its parent ends; it has no use for what that had open.
    os._exit(0)
follower.close()
client.close()
print("closed", flush=True)
sys.stdin.read()
"""


@pytest.mark.row("G13")
def test_what_a_parent_closes_ends_though_its_children_live_on(services: Services, served: Served) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"line 1\n")])
    arguments = [sys.executable, "-W", "error", "-c", HOLDING, served.url, TOKEN, str(work.run_id)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "closed\n", process.communicate(timeout=60)
        eventually(lambda: not served.connections and served.app.state.hub.readers == 0, timeout=4)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


ALONE = """
import sys
for name in ("celery", "fastapi", "kombu", "msgspec", "opentelemetry", "psycopg2", "redis", "sqlalchemy", "zstandard"):
    sys.modules[name] = None
import reprieve
from reprieve.client import AsyncClient, Client
with Client("http://127.0.0.1:9", timeout=0.01) as client:
    try:
        client.enqueue_runs([reprieve.RunRequest("process", {})])
    except reprieve.Unavailable:
        print("asked")
"""


def test_a_client_over_http_asks_without_anything_that_leads_to_a_database_or_a_broker() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("asked\n", "")


# -- servers that are away, that hang, or that are others


def test_a_server_that_is_not_there_is_waited_for_as_long_as_was_said(served: Served) -> None:
    served.stop()
    with Client(served.url, TOKEN, timeout=0.5) as client:
        with pytest.raises(Unavailable, match=r"does not answer.*refused") as gone:
            client.get_run("01997a5e-7d5c-7000-8000-000000000000")
    assert isinstance(gone.value, ConnectionError)
    with Client(served.url, TOKEN) as client:
        found: list[Any] = []

        def ask() -> None:
            with pytest.raises(RunNotFound):
                client.get_run("01997a5e-7d5c-7000-8000-000000000000")
            found.append(True)

        asking = threading.Thread(target=ask)
        asking.start()
        served.start()
        asking.join(30)
    assert found


@pytest.mark.parametrize("way", WAYS[:2])
def test_a_database_that_is_away_is_one_error_whatever_was_asked(
    services: Services, servers: Servers, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    monkeypatch.setattr(client_runs, "TRIES_FOR", 0.2)
    monkeypatch.setattr(client_logs, "TRIES_FOR", 0.2)
    with ExitStack() as stack:
        database = stack.enter_context(Gateway(servers.postgres.url))
        stack.enter_context(through(services, database_url=database.url))
        ask = stack.enter_context(asking(way, "", ""))
        assert next(ask.follow_log(work.run_id)).last == 1
        calls: list[Callable[[], Any]] = [
            lambda: ask.enqueue_run("process", CONFIG),
            lambda: ask.enqueue_runs([RunRequest("process", CONFIG)]),
            lambda: ask.get_run(work.run_id),
            lambda: next(ask.list_runs()),
            lambda: ask.cancel_run(work.run_id),
            lambda: ask.wait_for(work.run_id),
            lambda: next(ask.read_log(work.run_id)),
            lambda: next(ask.follow_log(work.run_id)),
        ]
        database.turn(Way.REFUSED)
        for call in calls:
            with pytest.raises(Unavailable):
                call()


@contextmanager
def through(services: Services, **urls: str) -> Iterator[None]:
    """Have this process reach its servers at these addresses."""
    changed = {name: SecretStr(url) for name, url in urls.items()}
    bootstrap.use(bootstrap.build(services.settings.model_copy(update=changed)))
    try:
        yield
    finally:
        bootstrap.use(services)


def test_a_server_that_takes_connections_and_says_nothing_is_given_up(
    way: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "SHORTEST_TRY", 0.1)
    with Client(way.url, TOKEN, timeout=0.5) as client:
        next(client.list_runs(), None)
        way.turn(Way.SILENT)
        with pytest.raises(Unavailable, match="does not answer"):
            client.enqueue_run("process", CONFIG)
        way.turn(Way.OPEN)
        eventually(lambda: len(list(client.list_runs())) <= 1)


def test_an_answer_that_was_lost_makes_no_second_run(
    services: Services, way: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "SHORTEST_TRY", 0.3)
    with Client(way.url, TOKEN, timeout=0.9) as client:
        next(client.list_runs(), None)
        way.turn(Way.NO_ANSWER)
        asking = threading.Thread(target=lambda: started.append(client.enqueue_run("process", CONFIG)))
        started: list[Run] = []
        asking.start()
        eventually(lambda: services.records.newest())
        way.turn(Way.REFUSED)
        way.turn(Way.OPEN)
        asking.join(30)
    assert [run.id for run in started] == [run.id for run in services.records.newest()]


def test_a_stream_on_which_nothing_comes_is_taken_for_lost_and_goes_on_at_its_place(
    services: Services, way: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "SILENCE", 0.3)
    work = running(services)
    ingest(services, [chunk(work, 1)])
    with Client(way.url, TOKEN) as client:
        following = client.follow_log(work.run_id)
        assert next(following).last == 1
        way.turn(Way.SILENT)
        ingest(services, [chunk(work, 2)])
        finish(services, [End.by_result(work.fence, Outcome(), 2)])
        threading.Timer(1.0, way.turn, [Way.OPEN]).start()
        assert [item.last for item in following] == [2]


@pytest.mark.parametrize("way", WAYS[2:])
def test_an_answer_that_comes_byte_by_byte_and_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(plans, "SHORTEST_TRY", 0.5)

    def drip(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(200):
                sock.sendall(b" ")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: drip(server.accept()[0]), daemon=True).start()
        url, began = f"http://127.0.0.1:{server.getsockname()[1]}", time.monotonic()
        with ask_within(way, url, 0.5) as ask, pytest.raises(Unavailable, match="too slowly"):
            ask.get_run(UUID(int=7))
    assert time.monotonic() - began < 5


@contextmanager
def ask_within(way: str, url: str, timeout: float) -> Iterator[Any]:
    """A client over HTTP that gives up after so many seconds, of either kind, for a test that waits."""
    with asyncio.Runner() as runner:
        if way == "HTTP":
            with Client(url, TOKEN, timeout=timeout) as client:
                yield client
        else:
            of_asyncio = AsyncClient(url, TOKEN, timeout=timeout)
            yield Awaited(of_asyncio, runner)
            runner.run(of_asyncio.aclose())


@pytest.mark.parametrize("way", WAYS[2:])
@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTPS_PROXY", "nonsense://x"), ("ALL_PROXY", "socks5://127.0.0.1:9"), ("SSL_CERT_FILE", "/no/such/file")],
)
def test_an_environment_of_no_use_is_an_error_that_says_where_to_look(
    monkeypatch: pytest.MonkeyPatch, way: str, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with ask_within(way, "https://127.0.0.1:9", 1) as ask, pytest.raises(SettingsError, match=name):
        ask.get_run(UUID(int=7))


def test_the_loop_ticks_on_while_the_certificates_are_read_that_are_trusted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = httpx2.AsyncClient.__init__

    def slowly(*given: Any, **named: Any) -> None:
        time.sleep(0.5)
        made(*given, **named)

    monkeypatch.setattr(httpx2.AsyncClient, "__init__", slowly)

    async def asked() -> int:
        ticked = 0
        async with AsyncClient(served.url, TOKEN) as client:
            asking = [asyncio.ensure_future(client.enqueue_run("process", CONFIG)) for _ in range(2)]
            while not all(one.done() for one in asking):
                await asyncio.sleep(0.005)
                ticked += 1
            await asyncio.gather(*asking)
        return ticked

    assert asyncio.run(asked()) > 20


def test_who_would_wait_for_ever_asks_like_everybody_else(served: Served) -> None:
    with Client(served.url, TOKEN, timeout=1e300) as client:
        assert list(client.list_runs()) == []


def test_who_has_no_token_or_one_of_too_small_a_scope_is_not_allowed(services: Services, served: Served) -> None:
    run = new_run(services)
    with ExitStack() as stack:
        nobody, wrong, reader = (
            stack.enter_context(Client(served.url, token)) for token in (None, "not-a-token", "may-read")
        )
        for client in (nobody, wrong):
            with pytest.raises(NotAllowed, match="token"):
                client.get_run(run)
            with pytest.raises(NotAllowed):
                next(client.follow_log(run))
        assert reader.get_run(run) == run
        with pytest.raises(NotAllowed, match="scope read; this needs run"):
            reader.cancel_run(run)


@pytest.mark.parametrize(
    "url",
    ["", "example.com", "ftp://x", "http://", "http://u:p@x", "http://x?y=1", "http://[", "http://x:y", b"", None],
)
def test_what_is_no_address_of_an_api_is_refused_at_once(url: Any) -> None:
    with pytest.raises(InvalidRequest, match="like https://"):
        Client(url, TOKEN)


@pytest.mark.parametrize("token", ["", "two words", "line\nend", "ключ", 7])
def test_what_is_no_token_is_refused_and_not_quoted(token: Any) -> None:
    with pytest.raises(InvalidRequest, match="what no token has") as refused:
        AsyncClient("https://x", token)
    assert not token or str(token) not in str(refused.value)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 10**400, "soon", None])
def test_a_timeout_that_is_none_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        Client("https://x", timeout=timeout)


def test_a_token_is_sent_to_the_server_that_was_named_and_to_no_other(served: Served) -> None:
    with Client(f"{served.url}/elsewhere", TOKEN) as client:
        with pytest.raises(Unavailable, match="answers 404"):
            client.get_run("01997a5e-7d5c-7000-8000-000000000000")
    assert TOKEN not in repr(vars(client)["_address"])


def test_what_is_larger_than_the_server_takes_is_refused_with_its_sentence(served: Served) -> None:
    with Client(served.url, TOKEN) as client, pytest.raises(InvalidRequest, match="larger than 2097152 bytes"):
        client.enqueue_run("process", {"command": ["x" * 3_000_000]})


def test_a_client_that_was_closed_says_so(served: Served) -> None:
    client = Client(served.url, TOKEN)
    next(client.list_runs(), None)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(client.list_runs())


def test_threads_share_a_client(services: Services, served: Served) -> None:
    found: list[Run] = []
    with Client(served.url, TOKEN) as client:
        threads = [
            threading.Thread(target=lambda: found.append(client.enqueue_run("process", CONFIG))) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({run.id for run in found}) == 16 == len(services.records.newest())
