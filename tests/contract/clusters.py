"""A cluster for tests that need no misbehaviour: the stand-in, or a real one where `TEST_KUBECONFIG` leads to it.

On a real one, the Jobs are run with `busybox` in the namespace `TEST_NAMESPACE` (`default` without it). What is done
to a node or to the API server is done by commands of the user there: `tests/real_cluster.sh` has their names.
"""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID, uuid4

import pytest

from reprieve.adapters.kubernetes.adapter import KubernetesAdapter
from reprieve.adapters.kubernetes.answers import Json, path_of
from reprieve.adapters.kubernetes.api import Api
from reprieve.adapters.kubernetes.connection import Connection
from reprieve.adapters.kubernetes.job import job_name
from reprieve.adapters.kubernetes.logs import LogTimings
from reprieve.adapters.kubernetes.timings import Timings
from reprieve.models.work import Work
from reprieve.testing.contexts import RecordingContext
from tests.support.kubernetes_api import FakeCluster
from tests.support.waiting import eventually

T = TypeVar("T")

#: Against the stand-in, which answers at once.
FAST = Timings(
    status_interval=0.05,
    look_interval=0.02,
    pulse=0.05,
    max_backoff=0.2,
    unwatched_interval=0.1,
    watch_seconds=1.0,
    watch_grace=1.0,
    watch_settle=0.1,
    list_interval=30.0,
    linger=0.2,
    events_interval=0.05,
    end_grace=1.0,
    termination_limit=5.0,
    connect_timeout=2.0,
    read_timeout=2.0,
    log=LogTimings(silence=5.0, spacing=0.1, look_interval=0.1, pause=0.02, longest_pause=0.1, end_patience=1.0),
)
REAL_KUBECONFIG = os.environ.get("TEST_KUBECONFIG")


class Asking:
    """The requests of the adapter, for a test: each on a loop of its own."""

    def __init__(self, timings: Timings) -> None:
        self._connection = Connection()
        self._timings = timings

    def list_all(self, path: str, query: Mapping[str, str]) -> list[Json]:
        return self._asked(lambda api: api.list_all(path, query))

    def get_one(self, namespace: str, kind: str, name: str) -> Json:
        return self._asked(lambda api: api.get_one(namespace, kind, name))

    def create(self, path: str, body: Json) -> Json:
        return self._asked(lambda api: api.create(path, body))

    def post(self, path: str, body: Json) -> Json:
        """For what is no creation: the answer is a status."""
        return self._asked(lambda api: api._json("POST", path, body=body))

    def delete(self, path: str, uid: str) -> None:
        return self._asked(lambda api: api.delete(path, uid))

    def _asked(self, ask: Callable[[Api], Awaitable[T]]) -> T:
        async def asking() -> T:
            async with Api(self._connection, self._timings.connect_timeout, self._timings.read_timeout) as api:
                return await ask(api)

        return asyncio.run(asking())


class Interventions(Protocol):
    """What is done to a cluster, beside its API; while the block lasts."""

    def tainted(self, node: str) -> AbstractContextManager[None]:
        """The node has a taint NoExecute that nothing of ours tolerates."""

    def without_kubelet(self, node: str) -> AbstractContextManager[None]:
        """The node goes on, and nobody hears of it."""

    def without_api_server(self) -> AbstractContextManager[None]:
        """Nobody listens where the API server was."""


class ByCommands:
    """On a real cluster: commands of a shell, in the environment; `$NODE` is the node's name."""

    def tainted(self, node: str) -> AbstractContextManager[None]:
        return self._between("TAINT_NODE", "UNTAINT_NODE", node)

    def without_kubelet(self, node: str) -> AbstractContextManager[None]:
        return self._between("STOP_KUBELET", "START_KUBELET", node)

    def without_api_server(self) -> AbstractContextManager[None]:
        return self._between("STOP_API_SERVER", "START_API_SERVER", "")

    @contextmanager
    def _between(self, begin: str, end: str, node: str) -> Iterator[None]:
        """Skips the test unless both commands are given."""
        for name in (begin, end):
            if not os.environ.get(name):
                pytest.skip(f"{name} is not set: a command that does it, in which $NODE is the name of the node.")
        try:
            self._run(os.environ[begin], node)
            yield
        finally:
            self._run(os.environ[end], node)

    def _run(self, command: str, node: str) -> None:
        subprocess.run(command, shell=True, check=True, timeout=120, env=os.environ | {"NODE": node})


class OfTheStandIn:
    """On the stand-in, which has nodes by name only."""

    def __init__(self, fake: FakeCluster) -> None:
        self._fake = fake

    @contextmanager
    def tainted(self, node: str) -> Iterator[None]:
        self._fake.taint(node)
        yield

    @contextmanager
    def without_kubelet(self, node: str) -> Iterator[None]:
        """Its Pods are to go, never do, and no log of theirs can be had."""
        self._fake.holds_deletions, self._fake.grace = True, 0.1
        self._fake.misbehave("GET", "/log", times=float("inf"), status=500, reason="InternalError")
        self._fake.taint(node)
        try:
            yield
        finally:
            self._fake.behave()
            self._fake.grace = 0.0
            self._fake.let_go()

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        self._fake.go_away()
        try:
            yield
        finally:
            self._fake.come_back()


@dataclass
class Cluster:
    """Where Jobs run, and the adapter for it."""

    adapter: KubernetesAdapter
    api: Asking
    namespace: str
    timings: Timings
    others: list[KubernetesAdapter] = field(default_factory=list, kw_only=True)
    interventions: Interventions = field(default_factory=ByCommands, kw_only=True)
    log_size: int = field(default=10 * 1024 * 1024, kw_only=True)
    """Bytes of a log file, after which the node begins another. (`containerLogMaxSize` of its kubelet.)"""

    def work(self, script: str, *, run_id: UUID | None = None, attempt: int = 1, **config: Any) -> Work:
        """A script for `sh`."""
        config = {"image": "busybox:1", "command": ["sh", "-c", script], "namespace": self.namespace} | config
        return Work(run_id or uuid4(), attempt, attempt, "kubernetes", config, {})

    def handle(self, run: Work) -> dict[str, Any]:
        return {"namespace": self.namespace, "name": job_name(run.run_id, run.attempt)}

    def another(self, timings: Timings) -> KubernetesAdapter:
        self.others.append(KubernetesAdapter(Path(), "there", timings))
        return self.others[-1]

    def is_idle(self) -> bool:
        """Whether no adapter has a connection open any more."""
        return all(adapter.is_idle for adapter in (self.adapter, *self.others))

    def exists(self, run: Work) -> bool:
        """Whether there is a Job, or a Pod, of this attempt."""
        query = {"labelSelector": f"reprieve/run-id={run.run_id},reprieve/attempt={run.attempt}"}
        return any(self.api.list_all(path_of(self.namespace, kind), query) for kind in ("jobs", "pods"))

    def pod(self, run: Work) -> Json:
        """The only Pod of this attempt."""
        query = {"labelSelector": f"reprieve/run-id={run.run_id},reprieve/attempt={run.attempt}"}
        (pod,) = self.api.list_all(path_of(self.namespace, "pods"), query)
        return pod

    def evict(self, pod: Json) -> None:
        """As a drain does it."""
        name = {"name": pod["metadata"]["name"], "namespace": self.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name}
        self.api.post(path_of(self.namespace, "pods", name["name"], "/eviction"), body)

    def context(self, run: Work, cursor: str | None = None) -> RecordingContext:
        return RecordingContext(run.run_id, run.attempt, cursor)


@contextmanager
def cluster_at(kubeconfig: str, namespace: str, timings: Timings) -> Iterator[Cluster]:
    """By `KUBECONFIG`, as a worker finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", kubeconfig)
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        cluster = Cluster(KubernetesAdapter(Path(), "here", timings), Asking(timings), namespace, timings)
        yield cluster
        eventually(cluster.is_idle)


@contextmanager
def any_cluster(folder: Path) -> Iterator[Cluster]:
    """A real one if there is one, else the stand-in that runs its Pods on this host."""
    if REAL_KUBECONFIG:
        with cluster_at(
            REAL_KUBECONFIG, os.environ.get("TEST_NAMESPACE", "default"), Timings(1.0, linger=1.0)
        ) as cluster:
            cluster.log_size = int(os.environ.get("TEST_LOG_SIZE", cluster.log_size))
            yield cluster
        return
    with FakeCluster(runs=True) as fake:
        with cluster_at(str(fake.kubeconfig(folder)), "default", FAST) as cluster:
            cluster.interventions = OfTheStandIn(fake)
            fake.max_log = cluster.log_size = 200_000
            yield cluster


@dataclass
class Scripted(Cluster):
    """The stand-in, whose life the test scripts."""

    fake: FakeCluster


@contextmanager
def scripted_cluster(folder: Path, timings: Timings = FAST, **options: Any) -> Iterator[Scripted]:
    with FakeCluster(**options) as fake:
        with cluster_at(str(fake.kubeconfig(folder)), "default", timings) as cluster:
            yield Scripted(cluster.adapter, cluster.api, cluster.namespace, timings, fake, others=cluster.others)
