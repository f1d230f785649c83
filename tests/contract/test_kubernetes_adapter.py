"""What the `kubernetes` adapter promises on any cluster; `tests/real_cluster.sh` runs this file on a real one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from reprieve.models.errors import Released, Superseded
from reprieve.models.status import ErrorCode, Probe
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import Following, RecordingContext, carry_out, follow_on
from tests.contract.clusters import Cluster, any_cluster
from tests.support.kubernetes_api import NO_SUCH_IMAGE
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with any_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def run_to_the_end(cluster: Cluster, run: Work) -> tuple[Outcome, RecordingContext]:
    context = cluster.context(run)
    try:
        return carry_out(cluster.adapter, run, context), context
    finally:
        cluster.adapter.terminate(cluster.handle(run))


@contextmanager
def followed(cluster: Cluster, run: Work, cursor: str | None = None, *, attach: bool = False) -> Iterator[Following]:
    """While the block lasts; the Job is deleted at its end."""
    context = cluster.context(run, cursor)
    with ThreadPoolExecutor(1) as pool:
        try:
            if attach:
                yield Following(context, pool.submit(follow_on, cluster.adapter, run, cluster.handle(run), context))
            else:
                yield Following(context, pool.submit(carry_out, cluster.adapter, run, context))
        finally:
            context.stop()
            cluster.adapter.terminate(cluster.handle(run))


# -- output and ends


def test_a_command_that_ends_well_succeeds_and_all_it_printed_is_there(cluster: Cluster) -> None:
    run = cluster.work("for i in 1 2 3; do echo line $i; done; echo to stderr >&2; echo last")
    outcome, context = run_to_the_end(cluster, run)
    assert (outcome.error_code, outcome.detail["exit_status"]) == (None, 0)
    lines = context.output().splitlines()
    assert sorted(lines) == [b"last", b"line 1", b"line 2", b"line 3", b"to stderr"]
    assert [line for line in lines if line != b"to stderr"] == [b"line 1", b"line 2", b"line 3", b"last"]
    assert context.dispatched[0] == (cluster.handle(run) | {"uid": None}, None)
    assert all(handle["uid"] for handle, _ in context.dispatched[1:])


def test_a_command_that_ends_with_a_status_fails_with_that_status(cluster: Cluster) -> None:
    outcome, context = run_to_the_end(cluster, cluster.work("echo oops; exit 3"))
    assert outcome.error_code is ErrorCode.EXIT_STATUS
    assert outcome.error_message == "The command ended with exit status 3."
    assert outcome.detail["exit_status"] == 3
    assert context.output() == b"oops\n"


def test_a_command_that_is_ended_by_a_signal_fails_with_that_signal(cluster: Cluster) -> None:
    outcome, _ = run_to_the_end(cluster, cluster.work("sh -c 'kill -TERM $$'; exit $?"))
    assert outcome.error_message == "The command was ended by SIGTERM."
    assert (outcome.detail["signal"], outcome.detail["exit_status"]) == (15, 143)


def test_a_long_line_arrives_whole(cluster: Cluster) -> None:
    # A kubelet may cut what a container prints in its last moment.
    script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo after; sleep 1"
    _, context = run_to_the_end(cluster, cluster.work(script))
    assert context.output() == b"x" * 100_000 + b"\nafter\n"


def test_a_last_line_without_an_end_arrives(cluster: Cluster) -> None:
    _, context = run_to_the_end(cluster, cluster.work("echo first; printf last"))
    assert context.output().splitlines() == [b"first", b"last"]


def test_the_command_is_told_which_attempt_it_is_and_gets_its_variables(cluster: Cluster) -> None:
    run = cluster.work("echo $REPRIEVE_RUN_ID $REPRIEVE_ATTEMPT $COLOUR", attempt=2, env={"COLOUR": "blue"})
    _, context = run_to_the_end(cluster, run)
    assert context.output() == f"{run.run_id} 2 blue\n".encode()


#: What a kubelet would make something else of.
DOLLARS = ["$", "$$", "$$$", "$(COLOUR)", "$$(COLOUR)", "$(none)", "$(", "$)", "$é", "$(é)", "a$b$", "`$$`"]


@pytest.mark.row("D17")
def test_what_is_written_into_a_command_and_its_arguments_reaches_it_unchanged(cluster: Cluster) -> None:
    show = 'for one in "$@"; do printf "%s\\n" "$one"; done'
    run = cluster.work(show, args=["sh", *DOLLARS], env={"COLOUR": "blue"})
    _, context = run_to_the_end(cluster, run)
    assert context.output().decode().splitlines() == DOLLARS


@pytest.mark.row("D17")
def test_a_script_may_use_the_shells_own_dollar_signs(cluster: Cluster) -> None:
    run = cluster.work("[ $$ -gt 0 ] && echo $$ | tr -d 0-9 && echo $(echo $COLOUR)", env={"COLOUR": "blue"})
    _, context = run_to_the_end(cluster, run)
    assert context.output() == b"\nblue\n"


@pytest.mark.row("D17")
def test_a_variables_value_is_what_was_written(cluster: Cluster) -> None:
    env = {f"VALUE_{number}": text for number, text in enumerate(DOLLARS)} | {"COLOUR": "blue", "AFTER": "$(COLOUR)"}
    run = cluster.work("env | grep -E '^(VALUE_|AFTER)'", env=env)
    _, context = run_to_the_end(cluster, run)
    assert sorted(context.output().decode().splitlines()) == sorted(
        f"{name}={text}" for name, text in env.items() if name != "COLOUR"
    )


@pytest.mark.row("D17")
def test_a_patch_is_kubernetes_own_language(cluster: Cluster) -> None:
    """Whoever wants Kubernetes to put a variable in says so there."""
    container = {"name": "run", "env": [{"name": "GREETING", "value": "hello $(COLOUR)"}]}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    run = cluster.work("echo $GREETING", env={"COLOUR": "blue"}, patch=patch)
    _, context = run_to_the_end(cluster, run)
    assert context.output() == b"hello blue\n"


def test_a_silent_command_is_seen_alive(cluster: Cluster) -> None:
    with followed(cluster, cluster.work("sleep 600")) as following:
        eventually(lambda: following.context.heartbeats >= 2, timeout=90)
        assert following.context.chunks == []


# -- leaving and coming back


def test_who_attaches_reads_on_after_the_cursor_and_neither_loses_nor_repeats_a_line(cluster: Cluster) -> None:
    run = cluster.work("i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.05; done")
    first = cluster.context(run)
    with ThreadPoolExecutor(1) as pool:
        following = Following(first, pool.submit(carry_out, cluster.adapter, run, first))
        eventually(lambda: first.output().count(b"\n") >= 5, timeout=90)
        first.release()
        with pytest.raises(Released):
            following.outcome()
    assert cluster.exists(run)
    cursor = first.chunks[-1][2]
    with followed(cluster, run, cursor, attach=True) as second:
        assert second.outcome().error_code is None
    assert (first.output() + second.context.output()).decode().splitlines() == [f"line {i}" for i in range(40)]


def test_any_chunks_cursor_leads_on_to_exactly_what_came_after_it(cluster: Cluster) -> None:
    run = cluster.work("for i in 1 2 3 4 5 6; do echo line $i; sleep 0.1; done; exit 4")
    with followed(cluster, run) as following:
        eventually(following.result.done, timeout=90)
        chunks = following.context.chunks
        for index, (_, _, cursor) in enumerate(chunks):
            context = cluster.context(run, cursor)
            outcome = follow_on(cluster.adapter, run, cluster.handle(run), context)
            assert outcome.detail["exit_status"] == 4
            assert context.output() == b"".join(data for _, data, _ in chunks[index + 1 :])


def test_work_that_is_superseded_before_it_is_recorded_is_not_begun(cluster: Cluster) -> None:
    run = cluster.work("echo never")
    context = cluster.context(run)
    context.refusal = Superseded("another worker has it")
    with pytest.raises(Superseded):
        carry_out(cluster.adapter, run, context)
    assert not cluster.exists(run)


def test_a_job_that_is_there_already_with_our_labels_is_followed(cluster: Cluster) -> None:
    run = cluster.work("echo once; sleep 0.2")
    with followed(cluster, run) as following:
        following.wait_for(b"once")
        outcome = carry_out(cluster.adapter, run, context := cluster.context(run))
    assert outcome.error_code is None
    assert context.output() == b"once\n"


def test_a_job_of_our_name_that_has_not_our_labels_is_a_failure_and_is_left_alone(cluster: Cluster) -> None:
    run = cluster.work("echo mine")
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": cluster.handle(run)["name"], "labels": {"owner": "somebody"}},
        "spec": {
            "suspend": True,
            "template": {
                "metadata": {},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "run", "image": "busybox:1", "command": ["true"], "env": []}],
                },
            },
        },
    }
    path = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
    created = cluster.api.create(path, foreign)
    outcome = carry_out(cluster.adapter, run, cluster.context(run))
    assert "is there already and has not the labels of this run" in str(outcome.error_message)
    with pytest.raises(Exception, match="is not ours to delete"):
        cluster.adapter.terminate(cluster.handle(run))
    still = cluster.api.get_one(cluster.namespace, "jobs", created["metadata"]["name"])
    assert still["metadata"]["uid"] == created["metadata"]["uid"]
    cluster.api.delete(f"{path}/{created['metadata']['name']}", created["metadata"]["uid"])


# -- being told to stop, and ending


def test_told_to_stop_the_job_and_its_pods_are_deleted(cluster: Cluster) -> None:
    run = cluster.work("echo up; sleep 600")
    with followed(cluster, run) as following:
        following.wait_for(b"up")
        following.context.stop()
        assert following.outcome() == Outcome.failed("Stopped.")
        assert not cluster.exists(run)


def test_ending_an_attempt_is_repeatable_and_leaves_other_attempts_alone(cluster: Cluster) -> None:
    first = cluster.work("echo first; sleep 600")
    second = replace(first, attempt=2)
    with followed(cluster, first) as one, followed(cluster, second) as other:
        one.wait_for(b"first")
        other.wait_for(b"first")
        one.context.release()
        with pytest.raises(Released):
            one.outcome()
        for _ in range(2):
            cluster.adapter.terminate(cluster.handle(first))
            assert not cluster.exists(first)
        assert cluster.exists(second)
        assert cluster.adapter.probe([cluster.handle(first), cluster.handle(second)]) == [Probe.DEAD, Probe.ALIVE]


def test_work_that_never_was_can_be_ended(cluster: Cluster) -> None:
    run = cluster.work("true")
    cluster.adapter.terminate(cluster.handle(run))
    assert not cluster.exists(run)


# -- probing


def test_the_platform_is_asked_about_many_at_once(cluster: Cluster) -> None:
    alive, ended, never = cluster.work("sleep 600"), cluster.work("exit 1"), cluster.work("true")
    with followed(cluster, alive) as one, followed(cluster, ended) as other:
        eventually(lambda: one.context.heartbeats, timeout=90)
        assert other.outcome().detail["exit_status"] == 1
        handles = [cluster.handle(run) for run in (alive, ended, never)] + [{"name": "x"}]
        assert cluster.adapter.probe(handles) == [Probe.ALIVE, Probe.ENDED, Probe.DEAD, Probe.UNKNOWN]
    assert cluster.adapter.probe([]) == []


# -- what cannot begin


def test_an_image_that_cannot_be_pulled_is_noted_and_fails_the_run_after_the_limit(cluster: Cluster) -> None:
    run = cluster.work("true", image=NO_SUCH_IMAGE)
    impatient = cluster.another(replace(cluster.timings, blocked_limit=0.5))
    context = cluster.context(run)
    outcome = carry_out(impatient, run, context)
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert outcome.detail["reason"] in ("ImagePullBackOff", "ErrImagePull")
    assert str(outcome.error_message).startswith("It could not begin within 0.5 s. The container 'run' cannot be")
    assert any("cannot be started" in note for note in context.notes)
    assert not cluster.exists(run)


def test_a_namespace_that_is_not_there_fails_the_run_with_the_platforms_reason(cluster: Cluster) -> None:
    run = cluster.work("true", namespace=f"none-{uuid4().hex[:8]}")
    outcome = carry_out(cluster.adapter, run, cluster.context(run))
    # A Role, which sees other namespaces only, is not told whether there is one.
    assert any(reason in str(outcome.error_message) for reason in ("NotFound", "Forbidden"))
