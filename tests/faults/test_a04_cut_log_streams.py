"""A04: the Pod lives and its log stream is dead: it is read on where it stopped, and the platform's word is enough."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reprieve.adapters.shipper import LogShipper
from reprieve.models.status import Proof
from reprieve.models.work import Work
from reprieve.testing.contexts import Following, carry_out, follow_on
from reprieve.workers.bootstrap import Services
from reprieve.workers.supervisor import Supervisor
from reprieve.workers.sweep import sweep
from tests.contract.clusters import Scripted, scripted_cluster
from tests.support.following import start
from tests.support.rows import age, running, status_of, watch_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A04")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scripted]:
    with scripted_cluster(tmp_path) as cluster:
        yield cluster


@contextmanager
def followed_pod(cluster: Scripted, run: Work) -> Iterator[tuple[Following, dict[str, Any]]]:
    """A run that is being followed, with its Pod, which runs."""
    context = cluster.context(run)
    with ThreadPoolExecutor(1) as pool:
        try:
            following = Following(context, pool.submit(carry_out, cluster.adapter, run, context))
            eventually(lambda: cluster.fake.of_kind("pods") or following.result.done())
            pod = cluster.fake.only_pod()
            cluster.fake.start(pod)
            yield following, pod
        finally:
            cluster.fake.behave()
            context.stop()


def log_requests(cluster: Scripted) -> list[dict[str, str]]:
    return [query for _, path, query in cluster.fake.requests if path.endswith("/log")]


def test_a_log_stream_that_is_cut_again_and_again_in_the_middle_of_lines_loses_and_repeats_nothing(
    cluster: Scripted,
) -> None:
    with followed_pod(cluster, cluster.work("true")) as (following, pod):
        for number, how in zip(range(12), itertools.cycle(["cut", "end"]), strict=False):
            cluster.fake.misbehave("GET", "/log", how=how, after=50 + 97 * number)
        written = b""
        for number in range(60):
            line = b"line %d %s\n" % (number, b"." * (number % 7))
            # Four lines each have the same time, and each fifth is a little older than the one before it.
            at = 1_800_000_000_000_000_000 + number // 4 * 300_000_000 - (700 if number % 5 == 4 else 0)
            cluster.fake.write(pod, line, at=at)
            written += line
        eventually(lambda: len(log_requests(cluster)) > 12)
        following.wait_for(b"line 59")
        cluster.fake.finish(pod)
        assert following.outcome().error_code is None
    assert following.context.output() == written


def test_a_log_that_was_rotated_while_nobody_read_it_goes_on_with_what_is_newer_and_the_run_says_so(
    cluster: Scripted,
) -> None:
    with followed_pod(cluster, cluster.work("true")) as (following, pod):
        with cluster.fake.changed:
            cluster.fake.misbehave("GET", "/log", how="cut", after=2 * (31 + 9))
            cluster.fake.misbehave("GET", "/log", times=float("inf"), status=500)
            cluster.fake.write(pod, b"before 1\nbefore 2\n")
        following.wait_for(b"before 2\n")
        cluster.fake.rotate(pod)
        cluster.fake.write(pod, b"after 1\n")
        with cluster.fake.changed:
            cluster.fake.behave()
            cluster.fake.misbehave("GET", "/log", how="cut", after=31 + 8)
            cluster.fake.misbehave("GET", "/log", times=float("inf"), status=500)
        following.wait_for(b"after 1\n")
        # And once more, between two other times.
        cluster.fake.write(pod, b"lost\n")
        cluster.fake.rotate(pod)
        cluster.fake.write(pod, b"after 2\n")
        cluster.fake.behave()
        following.wait_for(b"after 2\n")
        cluster.fake.finish(pod)
        following.outcome()
    assert following.context.output() == b"before 1\nbefore 2\nafter 1\nafter 2\n"
    assert ["into another file since it was read" in note for note in following.context.notes] == [True, True]
    assert len(set(following.context.notes)) == 2


def test_a_log_that_is_rotated_while_it_is_read_loses_nothing_and_nothing_is_said(cluster: Scripted) -> None:
    with followed_pod(cluster, cluster.work("true")) as (following, pod):
        cluster.fake.write(pod, b"before\n")
        following.wait_for(b"before\n")
        cluster.fake.rotate(pod)
        cluster.fake.write(pod, b"after\n")
        following.wait_for(b"after\n")
        cluster.fake.finish(pod)
        following.outcome()
    assert following.context.output() == b"before\nafter\n"
    assert following.context.notes == []


def test_a_long_line_that_is_cut_is_read_on_within_it(cluster: Scripted) -> None:
    line = b"".join(b"%07d;" % number for number in range(12_000))
    with followed_pod(cluster, cluster.work("true")) as (following, pod):
        for after in (50_000, 20, 70_000):
            cluster.fake.misbehave("GET", "/log", how="cut", after=after)
        cluster.fake.write(pod, line)
        eventually(lambda: len(following.context.output()) >= len(line))
        cluster.fake.write(pod, b"\nnext\n")
        cluster.fake.finish(pod)
        following.outcome()
    assert following.context.output() == line + b"\nnext\n"


def test_who_takes_over_after_a_cut_asks_from_the_last_line_on_and_gets_the_rest(cluster: Scripted) -> None:
    run = cluster.work("true")
    with followed_pod(cluster, run) as (following, pod):
        cluster.fake.write(pod, b"one\n", at=1_800_000_000_000_000_005)
        following.wait_for(b"one\n")
        cluster.fake.write(pod, b"two\n", at=1_800_000_000_000_000_005)
        following.wait_for(b"two\n")
        cursor = following.context.chunks[0][2]
        cluster.fake.finish(pod)
        following.outcome()
    context = cluster.context(run, cursor)
    cluster.fake.requests.clear()
    assert follow_on(cluster.adapter, run, cluster.handle(run), context).error_code is None
    assert context.output() == b"two\n"
    assert log_requests(cluster)[0]["sinceTime"] == "2027-01-15T07:59:59Z"


def test_a_silent_log_stream_is_opened_anew(cluster: Scripted) -> None:
    with followed_pod(cluster, cluster.work("true")) as (following, pod):
        cluster.fake.misbehave("GET", "/log", how="hang")
        cluster.fake.write(pod, b"heard at last\n")
        following.wait_for(b"heard at last\n")
        assert len(log_requests(cluster)) >= 2


def test_a_run_whose_log_stream_is_dead_lives_on_by_the_platforms_word_alone(
    services: Services, cluster: Scripted
) -> None:
    cluster.fake.misbehave("GET", "/log", times=float("inf"), status=500)
    claimed = running(services, adapter="kubernetes")
    supervisor = Supervisor(services, LogShipper(services.settings.spool_dir, lambda blocks: None, lambda keys: {}))
    with supervisor.follow(claimed) as context, ThreadPoolExecutor(1) as pool:
        run = cluster.work("true", run_id=claimed.run_id)
        result = pool.submit(start, services, cluster.adapter, run, context)
        try:
            eventually(lambda: cluster.fake.of_kind("pods") or result.done())
            cluster.fake.start(cluster.fake.only_pod())
            eventually(lambda: log_requests(cluster))
            age(services, claimed.run_id, 400)
            watch_for(services, 400)
            eventually(lambda: context.proof() is Proof.HEARTBEAT)
            supervisor.supervise()
            assert sweep(services, by_hand=True)["reaped"] == 0
            assert status_of(services, claimed.run_id) == "running"
            assert not result.done()
        finally:
            cluster.fake.behave()
            context.stop()
