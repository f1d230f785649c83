"""How a Job is written down, and how its end is told from what the platform says of it."""

from typing import Any
from uuid import UUID

import pytest

from reprieve.adapters.kinds import validate_config
from reprieve.adapters.kubernetes.adapter import KubernetesAdapter
from reprieve.adapters.kubernetes.config import KubernetesConfig
from reprieve.adapters.kubernetes.job import job_name, labels_of_name, manifest, merged
from reprieve.adapters.kubernetes.seen import Seen, later
from reprieve.adapters.kubernetes.sights import trimmed
from reprieve.adapters.kubernetes.state import blocked, logs_of, outcome_of, seen_of
from reprieve.adapters.registry import find_adapter
from reprieve.models.errors import InvalidRequest
from reprieve.models.status import ErrorCode
from reprieve.models.work import Work

RUN_ID = UUID("0190d5a8-7f3c-7d3e-8a51-6b6f3a1c2d4e")
NAME = "reprieve-0190d5a87f3c7d3e8a516b6f3a1c2d4e-3"
LABELS = {"app.kubernetes.io/managed-by": "reprieve", "reprieve/run-id": str(RUN_ID), "reprieve/attempt": "3"}


def written(**config: Any) -> dict[str, Any]:
    given = validate_config(KubernetesAdapter, {"image": "busybox", **config})
    return manifest(Work(RUN_ID, 3, 3, "kubernetes", given, {}), KubernetesConfig.model_validate(given))


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_the_adapter_is_installed_under_its_name() -> None:
    assert find_adapter("kubernetes") is KubernetesAdapter


def test_a_job_has_one_pod_and_one_try_and_says_whose_it_is() -> None:
    job = written()
    assert job["metadata"] == {"name": NAME, "namespace": "default", "labels": LABELS}
    assert job["spec"]["template"]["metadata"]["labels"] == LABELS
    spec = {key: job["spec"][key] for key in ("backoffLimit", "completions", "parallelism", "ttlSecondsAfterFinished")}
    assert spec == {"backoffLimit": 0, "completions": 1, "parallelism": 1, "ttlSecondsAfterFinished": 86400}
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert (container_of(job)["name"], container_of(job)["image"]) == ("run", "busybox")


def test_each_field_has_its_place_in_the_manifest() -> None:
    job = written(
        command=["a"],
        args=["b"],
        env={"X": "1"},
        secret_env={"TOKEN": {"name": "deploy", "key": "token"}},
        resources={"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}},
        namespace="jobs",
        service_account="runner",
        volumes=[{"name": "data", "emptyDir": {}}],
        volume_mounts=[{"name": "data", "mountPath": "/data"}],
        image_pull_secrets=["registry"],
        ttl_seconds_after_finished=1800,
    )
    container, pod = container_of(job), job["spec"]["template"]["spec"]
    assert (container["command"], container["args"]) == (["a"], ["b"])
    assert container["env"] == [
        {"name": "REPRIEVE_RUN_ID", "value": str(RUN_ID)},
        {"name": "REPRIEVE_ATTEMPT", "value": "3"},
        {"name": "X", "value": "1"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "deploy", "key": "token"}}},
    ]
    assert container["resources"] == {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}}
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert (pod["serviceAccountName"], pod["imagePullSecrets"]) == ("runner", [{"name": "registry"}])
    assert pod["volumes"] == [{"name": "data", "emptyDir": {}}]
    assert (job["metadata"]["namespace"], job["spec"]["ttlSecondsAfterFinished"]) == ("jobs", 1800)


def test_a_patch_reaches_everything_but_what_holds_the_run_and_its_job_together() -> None:
    job = written(
        patch={
            "kind": "CronJob",
            "metadata": {"name": "mine", "namespace": "mine", "labels": {"reprieve/attempt": "9", "team": "a"}},
            "spec": {
                "backoffLimit": 5,
                "parallelism": 2,
                "activeDeadlineSeconds": 600,
                "template": {
                    "metadata": {"labels": {"reprieve/run-id": "x"}, "annotations": {"a": "b"}},
                    "spec": {
                        "restartPolicy": "Always",
                        "nodeSelector": {"gpu": "yes"},
                        "containers": [
                            {"name": "run", "tty": True, "restartPolicy": "OnFailure", "restartPolicyRules": []},
                            {"name": "helper", "image": "helper", "restartPolicy": "OnFailure"},
                        ],
                    },
                },
            },
        }
    )
    assert (job["kind"], job["metadata"]["name"], job["metadata"]["namespace"]) == ("Job", NAME, "default")
    assert job["metadata"]["labels"] == LABELS | {"team": "a"}
    assert (job["spec"]["backoffLimit"], job["spec"]["parallelism"], job["spec"]["activeDeadlineSeconds"]) == (
        0,
        1,
        600,
    )
    template = job["spec"]["template"]
    assert template["metadata"] == {"labels": LABELS, "annotations": {"a": "b"}}
    assert (template["spec"]["restartPolicy"], template["spec"]["nodeSelector"]) == ("Never", {"gpu": "yes"})
    run, helper = template["spec"]["containers"]
    assert (run["image"], run["tty"]) == ("busybox", True)
    assert not run.keys() & {"restartPolicy", "restartPolicyRules"}
    assert helper == {"name": "helper", "image": "helper", "restartPolicy": "OnFailure"}


def test_a_patch_merges_by_key_and_by_name_and_null_removes() -> None:
    base = {"a": {"x": 1, "y": 2}, "list": [1], "named": [{"name": "p", "v": 1}, {"name": "q"}], "gone": 1}
    patch = {"a": {"y": 3}, "list": [2], "named": [{"name": "p", "w": 2}], "gone": None, "new": {"z": None, "k": 1}}
    assert merged(base, patch) == {
        "a": {"x": 1, "y": 3},
        "list": [2],
        "named": [{"name": "p", "v": 1, "w": 2}, {"name": "q"}],
        "new": {"k": 1},
    }


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "config.image"),
        ({"image": "x", "imag": "y"}, "config.imag is not a field"),
        ({"image": "x", "namespace": "Not_A_Name"}, "config.namespace"),
        ({"image": "x", "env": {"A": "1"}, "secret_env": {"A": {"name": "s", "key": "k"}}}, "both name A"),
        ({"image": "x", "secret_env": {"A": {"name": "s", "key": "a/b"}}}, "config.secret_env.A.key"),
        ({"image": "x", "patch": {"metadata": None}}, "patch.metadata must be an object"),
        ({"image": "x", "patch": {"spec": None}}, "must be an object"),
        ({"image": "x", "patch": {"spec": {"template": {"metadata": []}}}}, "must be an object"),
        ({"image": "x", "patch": {"spec": {"template": {"spec": {"containers": None}}}}}, "must be a list"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_the_field(config: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        validate_config(KubernetesAdapter, config)


def test_a_jobs_name_says_which_attempt_it_is_of_and_no_other_name_does() -> None:
    assert job_name(RUN_ID, 3) == NAME
    assert labels_of_name(NAME) == LABELS
    for name in ("reprieve-1", NAME + "-x", NAME.upper(), "reprieve-" + "0" * 32 + "-0"):
        with pytest.raises(ValueError, match="not the name of a Job of Reprieve"):
            labels_of_name(name)


# -- ends


def job(kind: str = "Failed", reason: str = "BackoffLimitExceeded", message: str = "") -> dict[str, Any]:
    return {"status": {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message}]}}


def pod(state: dict[str, Any] | None = None, name: str = "p", **status: Any) -> dict[str, Any]:
    containers = [{"name": "run", "state": state}] if state else []
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": "2026-11-24T10:00:00Z"},
        "spec": {
            "nodeName": "node-1",
            "containers": [{"name": "run", "resources": {"limits": {"memory": "64Mi"}}}],
        },
        "status": {"containerStatuses": containers, **status},
    }


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, **more}}


def disrupted(reason: str, message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]}


@pytest.mark.parametrize(
    ("the_job", "the_pod", "code", "sentence", "detail"),
    [
        pytest.param(
            job(), pod(ended(3)), ErrorCode.EXIT_STATUS, "The command ended with exit status 3.",
            {"exit_status": 3, "reason": "Error"}, id="exit status",
        ),
        pytest.param(
            job(), pod(ended(137)), ErrorCode.EXIT_STATUS, "The command was ended by SIGKILL.",
            {"exit_status": 137, "signal": 9, "reason": "Error"}, id="signal",
        ),
        pytest.param(
            job(), pod(ended(255)), ErrorCode.EXIT_STATUS, "The command ended with exit status 255.",
            {"exit_status": 255, "reason": "Error"}, id="a status that is no signal",
        ),
        pytest.param(
            job(), pod(ended(137, "OOMKilled")), ErrorCode.OOM_KILLED,
            "The container used more memory than it may (64Mi) and was killed (OOMKilled).",
            {"exit_status": 137, "reason": "OOMKilled"}, id="memory",
        ),
        pytest.param(
            job(), pod(ended(137), reason="Evicted", message="The node was low on resource: memory."),
            ErrorCode.ADAPTER_ERROR, "Its Pod was evicted from node node-1 (The node was low on resource: memory.)",
            {"reason": "Evicted", "message": "The node was low on resource: memory."}, id="evicted by its node",
        ),
        pytest.param(
            job(), pod(ended(143), **disrupted("EvictionByEvictionAPI", "Eviction API: evicting")),
            ErrorCode.ADAPTER_ERROR, "Its Pod was evicted from node node-1 (Eviction API: evicting).",
            {"reason": "Evicted", "message": "Eviction API: evicting"}, id="evicted by a drain",
        ),
        pytest.param(
            job(), pod(ended(143), **disrupted("PreemptionByScheduler", "preempting")),
            ErrorCode.ADAPTER_ERROR, "Its Pod had to make room on node node-1 for one of higher priority (preempting).",
            {"reason": "Preempted", "message": "preempting"}, id="preempted",
        ),
        pytest.param(
            job(), pod(**disrupted("DeletionByPodGC", "PodGC: node no longer exists")),
            ErrorCode.ADAPTER_ERROR,
            "Its Pod was lost with node node-1, which went away, was drained or shut down "
            "(PodGC: node no longer exists).",
            {"reason": "NodeLost", "message": "PodGC: node no longer exists"}, id="node lost",
        ),
        pytest.param(
            job(reason="DeadlineExceeded", message="Job was active longer than specified deadline"), pod(ended(143)),
            ErrorCode.ADAPTER_ERROR, "The Job was active for longer than its activeDeadlineSeconds.",
            {"reason": "DeadlineExceeded", "message": "Job was active longer than specified deadline"}, id="deadline",
        ),
        pytest.param(
            job(), pod(ended(128, "StartError", message="exec: no such file")), ErrorCode.ADAPTER_ERROR,
            "The container could not be started: exec: no such file.",
            {"reason": "StartError", "message": "exec: no such file"}, id="no such program",
        ),
    ],
)  # fmt: skip
def test_ends_are_told_apart(
    the_job: dict[str, Any], the_pod: dict[str, Any], code: ErrorCode, sentence: str, detail: dict[str, Any]
) -> None:
    outcome = outcome_of(the_job, [the_pod])
    assert (outcome.error_code, outcome.error_message) == (code, sentence)
    assert outcome.detail == detail | {"pod": "p", "node": "node-1"}


def test_a_job_that_failed_without_a_pod_gives_its_own_reason() -> None:
    outcome = outcome_of(job(message="Job has reached the specified backoff limit"), [])
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert "BackoffLimitExceeded" in str(outcome.error_message)


def test_a_job_that_is_given_up_for_its_deadline_says_so_though_its_pod_is_merely_deleted() -> None:
    """On a node that is away, the Pod never goes, so that the Job is never more than about to fail."""
    leaving = pod({"running": {}})
    leaving["metadata"] |= {"deletionTimestamp": "2026-11-24T10:01:00Z", "deletionGracePeriodSeconds": 30}
    failing = job("FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline")
    assert outcome_of(failing, [leaving]).detail["reason"] == "DeadlineExceeded"
    assert outcome_of(job("FailureTarget"), [leaving]).detail["reason"] == "Deleted"


def test_a_proxy_that_is_ended_with_its_pod_is_not_what_kept_the_command_from_beginning() -> None:
    failed = pod({"waiting": {"reason": "PodInitializing"}}, phase="Failed")
    failed["spec"]["initContainers"] = [{"name": "proxy", "restartPolicy": "Always"}, {"name": "fetch"}]
    failed["status"]["initContainerStatuses"] = [
        {"name": "proxy", "state": ended(143)},
        {"name": "fetch", "state": ended(3)},
    ]
    outcome = outcome_of(job(), [trimmed(failed)])
    assert outcome.detail["container"] == "fetch"
    assert "exit status 3." in str(outcome.error_message)


def test_a_disruption_that_was_called_off_is_not_why_a_run_failed_later() -> None:
    """Its condition becomes False after two minutes in which nobody deleted the Pod (`syncStalePodDisruption`)."""
    announced = pod({"running": {}}, **disrupted("EvictionByEvictionAPI", "Eviction API: evicting"))
    before = Seen.of_json(seen_of({}, [announced]).as_json())  # type: ignore[union-attr]
    assert outcome_of(job(), [pod(ended(3))], before).detail["reason"] == "Evicted"
    called_off = disrupted("EvictionByEvictionAPI", "")
    called_off["conditions"][0]["status"] = "False"
    assert outcome_of(job(), [pod(ended(3), **called_off)], before).detail["exit_status"] == 3
    running = later(before, seen_of({}, [pod({"running": {}}, **called_off)]))
    assert running is not None
    assert not running.tells_an_end, "a Job that is gone would have ended by it"


def test_the_newest_pod_says_how_it_ended_and_logs_are_read_oldest_first() -> None:
    old, new = pod(ended(1), "z-old"), pod(ended(7), "a-new")
    new["metadata"]["creationTimestamp"] = "2026-11-24T11:00:00Z"
    assert outcome_of(job(), [new, old]).detail["exit_status"] == 7
    assert [log.name for log in logs_of([new, pod({"waiting": {}}, "m"), old])] == ["z-old", "a-new"]


# -- what cannot begin

UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"]
)
def test_a_container_that_cannot_start_is_told_with_the_platforms_reason(reason: str) -> None:
    found = blocked({}, [pod({"waiting": {"reason": reason, "message": "because."}})], [])
    assert found is not None
    assert (found.reason, found.sentence) == (reason, f"The container 'run' cannot be started: {reason}: because.")


def test_a_pod_that_no_node_can_take_is_told() -> None:
    found = blocked({}, [pod(conditions=[UNSCHEDULABLE])], [])
    assert found is not None
    assert (found.reason, found.sentence) == ("Unschedulable", "No node can take the Pod: 0/3 nodes.")


def test_a_pod_that_may_not_be_created_is_told_by_the_jobs_events() -> None:
    found = blocked({}, [], [{"reason": "FailedCreate", "message": "exceeded quota: small"}])
    assert found is not None
    assert found.sentence == "The Job's Pod cannot be created: exceeded quota: small."


def test_what_is_on_its_way_or_running_or_has_ended_is_not_kept_from_beginning() -> None:
    assert blocked({}, [], []) is None
    assert blocked({}, [pod({"waiting": {"reason": "ContainerCreating"}})], []) is None
    assert blocked({}, [pod({"running": {}})], []) is None
    assert blocked(job(), [pod(conditions=[UNSCHEDULABLE])], []) is None


@pytest.mark.parametrize("beside", ["initContainerStatuses", "containerStatuses"])
def test_a_container_beside_a_command_that_runs_is_no_reason_to_end_it(beside: str) -> None:
    """Ten minutes later the Job would be deleted, with work that is alive and well."""
    cannot = {"name": "proxy", "state": {"waiting": {"reason": "CreateContainerError"}}}
    waiting, running, over = (pod(state) for state in ({"waiting": {}}, {"running": {}}, ended(0)))
    for one in (waiting, running, over):
        one["status"].setdefault(beside, []).append(cannot)
    assert blocked({}, [running], []) is None
    assert blocked({}, [waiting], []) is not None
    assert blocked({}, [over], []) is not None, "its Pod would never end"
