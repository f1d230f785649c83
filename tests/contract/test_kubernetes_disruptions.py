"""What happens to runs whose Pods are taken away, or have company, on any cluster; see `tests/real_cluster.sh`."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from reprieve.models.status import ErrorCode
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import Following, RecordingContext, carry_out
from tests.contract.clusters import Cluster, any_cluster
from tests.support.waiting import eventually

#: Seconds within which a real cluster does what it is to do.
PATIENCE = 300
#: A script that says that it is there, and ends soon after it is told to.
UP = "trap 'exit 143' TERM; echo up; while true; do sleep 0.2; done"


@pytest.fixture
def cluster(tmp_path: Any) -> Iterator[Cluster]:
    with any_cluster(tmp_path) as cluster:
        yield cluster


@contextmanager
def followed(cluster: Cluster, run: Work) -> Iterator[Following]:
    context = cluster.context(run)
    with ThreadPoolExecutor(1) as pool:
        try:
            yield Following(context, pool.submit(carry_out, cluster.adapter, run, context))
        finally:
            context.stop()


@contextmanager
def up(cluster: Cluster, **config: Any) -> Iterator[tuple[Following, dict[str, Any]]]:
    """A run that has printed a line, and its Pod."""
    run = cluster.work(UP, **config)
    with followed(cluster, run) as following:
        eventually(lambda: b"up\n" in following.context.output(), timeout=PATIENCE)
        yield following, cluster.pod(run)
    cluster.adapter.terminate(cluster.handle(run))


def ended(following: Following) -> Outcome:
    eventually(following.result.done, timeout=PATIENCE)
    return following.outcome()


def to_the_end(cluster: Cluster, run: Work) -> tuple[Outcome, RecordingContext]:
    with followed(cluster, run) as following:
        outcome = ended(following)
    cluster.adapter.terminate(cluster.handle(run))
    return outcome, following.context


# -- a Pod that is taken away


@pytest.mark.row("B15")
def test_a_run_whose_pod_is_evicted_says_so_and_keeps_what_it_printed(cluster: Cluster) -> None:
    with up(cluster) as (following, pod):
        cluster.evict(pod)
        outcome = ended(following)
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert (outcome.detail["reason"], outcome.detail["node"]) == ("Evicted", pod["spec"]["nodeName"])
    assert following.context.output() == b"up\n"


@pytest.mark.row("B15")
def test_a_run_whose_node_gets_a_taint_has_lost_it(cluster: Cluster) -> None:
    with up(cluster) as (following, pod), cluster.interventions.tainted(pod["spec"]["nodeName"]):
        outcome = ended(following)
    assert (outcome.error_code, outcome.detail["reason"]) == (ErrorCode.ADAPTER_ERROR, "NodeLost")
    assert following.context.output() == b"up\n"


@pytest.mark.row("B15")
def test_a_run_on_a_node_that_nobody_hears_of_ends_though_its_pod_never_goes(cluster: Cluster) -> None:
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
        for key in ("unreachable", "not-ready")
    ]
    patch = {"spec": {"template": {"spec": {"tolerations": tolerations}}}}
    with up(cluster, patch=patch) as (following, pod), cluster.interventions.without_kubelet(pod["spec"]["nodeName"]):
        outcome = ended(following)
    assert (outcome.error_code, outcome.detail["reason"]) == (ErrorCode.ADAPTER_ERROR, "NodeLost")
    assert following.context.output() == b"up\n"


@pytest.mark.row("A23")
def test_a_run_that_is_asked_for_while_the_api_server_is_away_waits_for_it(cluster: Cluster) -> None:
    run = cluster.work("echo at last")
    with cluster.interventions.without_api_server():
        context = cluster.context(run)
        pool = ThreadPoolExecutor(1)
        following = Following(context, pool.submit(carry_out, cluster.adapter, run, context))
        eventually(lambda: context.notes and context.heartbeats >= 2, timeout=PATIENCE)
        assert "could not be created yet" in context.notes[0]
    try:
        assert ended(following).error_code is None
    finally:
        context.stop()
        pool.shutdown()
    cluster.adapter.terminate(cluster.handle(run))
    assert context.output() == b"at last\n"


# -- a log of more than one file


@pytest.mark.row("A04")
def test_of_a_log_of_several_files_nothing_comes_twice_and_nothing_is_missing_without_a_word(cluster: Cluster) -> None:
    """Read while it is written, it is whole as a rule; where the node was faster, a note says so.

    On a real cluster the kubelet looks every 10 seconds whether a file is too large.
    """
    lines, pauses = 3 * cluster.log_size // 100, 30
    pause = 1.0 if cluster.log_size > 1_000_000 else 0.02
    burst = lines // pauses
    numbers = f'BEGIN {{ for (i = n * {burst}; i < (n + 1) * {burst}; i++) printf "%099d\\n", i }}'
    loop = f"n=0; while [ $n -lt {pauses} ]; do awk -v n=$n '{numbers}'; n=$((n + 1)); sleep {pause}; done"
    script = f"{loop}; echo last; sleep 1"
    outcome, context = to_the_end(cluster, cluster.work(script))
    assert outcome.error_code is None
    *numbered, last = context.output().splitlines()
    assert last == b"last"
    found = [int(number) for number in numbered]
    assert found == sorted(set(found))
    assert len(found) == burst * pauses or any("into another file" in note for note in context.notes)


def test_a_carriage_return_before_a_line_end_is_in_the_log_only_if_the_runtime_keeps_it(cluster: Cluster) -> None:
    _, context = to_the_end(cluster, cluster.work(r"printf 'a\rb\r\nc\n'; sleep 1"))
    assert re.fullmatch(rb"a\rb\r?\nc\n", context.output())


# -- company


def beside(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "busybox:1", "command": ["sh", "-c", script]} | more


def patched(**spec: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": spec}}}


def test_a_sidecar_that_never_ends_ends_with_the_command(cluster: Cluster) -> None:
    sidecar = beside("proxy", "while true; do echo noise; sleep 0.2; done", restartPolicy="Always")
    run = cluster.work("echo mine; sleep 1; exit 3", patch=patched(initContainers=[sidecar]))
    outcome, context = to_the_end(cluster, run)
    assert (outcome.error_code, outcome.detail["exit_status"]) == (ErrorCode.EXIT_STATUS, 3)
    assert context.output() == b"mine\n"


def test_an_ordinary_container_beside_the_command_keeps_the_run_until_it_ends(cluster: Cluster) -> None:
    run = cluster.work("echo mine", patch=patched(containers=[beside("upload", "echo noise; sleep 2")]))
    with followed(cluster, run) as following:
        eventually(lambda: b"mine\n" in following.context.output(), timeout=PATIENCE)
        assert not following.result.done()
        assert ended(following).error_code is None
    cluster.adapter.terminate(cluster.handle(run))
    assert following.context.output() == b"mine\n"


def test_a_container_beside_the_command_that_fails_is_named(cluster: Cluster) -> None:
    run = cluster.work("echo mine", patch=patched(containers=[beside("upload", "sleep 1; exit 7")]))
    outcome, context = to_the_end(cluster, run)
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert outcome.error_message == (
        "The command ended with exit status 0, but the container 'upload' of its Pod failed with exit status 7."
    )
    assert outcome.detail["container"] == "upload"
    assert context.output() == b"mine\n"


def test_a_container_before_the_command_that_fails_is_named(cluster: Cluster) -> None:
    run = cluster.work("echo never", patch=patched(initContainers=[beside("fetch", "exit 4")]))
    outcome, context = to_the_end(cluster, run)
    assert outcome.error_message == (
        "The command was not begun, since the container 'fetch' of its Pod failed with exit status 4."
    )
    assert context.output() == b""
