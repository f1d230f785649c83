"""The plain manifests: of the form, allowed where a namespace is `restricted`, and right about every role."""

import tomllib
from typing import Any

import pytest
import yaml

from reprieve.cli.roles import ROLES
from reprieve.workers.settings import Settings
from tests.chart.helm import CHART, PLAIN, ROOT, fingerprint
from tests.support.manifests import breaches, check, pods_of

FILES = sorted(PLAIN.glob("*.yaml"))
MANIFESTS: list[dict[str, Any]] = [one for file in FILES for one in yaml.safe_load_all(file.read_text())]
#: Role by role, its Pod and its container.
PODS = {pod["containers"][0]["name"]: (pod, pod["containers"][0]) for one in MANIFESTS for pod in pods_of(one)}
STARTS = {name: ["reprieve", "start", name] for name in ROLES} | {"migrate": ["reprieve", "migrate"]}
KNOWN = {f"REPRIEVE_{name.upper()}" for name in Settings.model_fields} | {"FLOWER_ADDRESS"}

#: Seconds that a worker of runs has to end its children.
DRAIN = Settings.model_fields["drain_seconds"].default


@pytest.mark.parametrize("file", FILES, ids=lambda one: str(one.name))
def test_the_manifests_are_those_of_this_chart(file: Any) -> None:
    """What they would hold is compared where there is Helm, in tests/chart."""
    assert fingerprint() in file.read_text(), "the chart has changed since: `make manifests`"


def test_the_chart_is_of_this_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == chart["appVersion"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_a_manifest_is_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    check(manifest)
    assert [breaches(pod) for pod in pods_of(manifest) if breaches(pod)] == []


def test_every_role_is_there_and_is_started_behind_the_images_own_entry_point() -> None:
    assert {name: container["args"] for name, (_, container) in PODS.items()} == STARTS
    assert not any("command" in container for _, container in PODS.values())


def test_every_variable_is_a_setting_and_none_is_secret() -> None:
    told = {name for one in MANIFESTS if one["kind"] == "ConfigMap" for name in one["data"]}
    assert told <= KNOWN
    assert not {name for name in told if name.endswith(("_URL", "PASSWORD", "TOKENS"))} - {"REPRIEVE_LOG_ARCHIVE_URL"}


def test_a_worker_of_runs_has_longer_to_end_than_it_drains() -> None:
    (told,) = {one["data"]["REPRIEVE_DRAIN_SECONDS"] for one in MANIFESTS if one["kind"] == "ConfigMap"}
    assert float(told) == DRAIN
    assert PODS["worker-runs"][0]["terminationGracePeriodSeconds"] > DRAIN


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_writes_to_its_data_and_to_tmp_only_and_no_health_check_ends_it(role: str) -> None:
    _, container = PODS[role]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/data"}
    assert not container.keys() & {"livenessProbe", "startupProbe"}
    assert "readinessProbe" in container


@pytest.mark.parametrize("role", sorted(ROLES))
def test_only_who_speaks_to_the_api_server_has_a_token_of_it(role: str) -> None:
    pod, _ = PODS[role]
    speaks = role in ("worker-runs", "worker-control")
    assert pod["automountServiceAccountToken"] is speaks
    assert pod["serviceAccountName"].endswith("-worker") is speaks


# -- the checks themselves


def pod(**changes: Any) -> dict[str, Any]:
    """One that passes, but for the changes of its container."""
    security = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "one", "securityContext": security | {"seccompProfile": {"type": "RuntimeDefault"}} | changes}
    return {"containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}]}


def test_a_pod_that_keeps_to_the_rules_breaches_none() -> None:
    assert breaches(pod()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"runAsNonRoot": None}, "one: runAsNonRoot is not true"),
        ({"runAsUser": 0}, "one: runAsUser is 0"),
        ({"allowPrivilegeEscalation": None}, "one: allowPrivilegeEscalation is not false"),
        ({"capabilities": {}}, "one: capabilities are not dropped"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "one: capabilities are added"),
        ({"seccompProfile": {"type": "Unconfined"}}, "one: seccompProfile is not RuntimeDefault"),
        ({"privileged": True}, "one: privileged is true"),
    ],
)
def test_a_container_that_is_not_allowed_is_named_with_the_rule(changes: dict[str, Any], told: str) -> None:
    assert breaches(pod(**changes)) == [told]


def test_what_a_pod_may_not_share_with_its_host_is_found() -> None:
    shared = pod() | {"hostPID": True, "volumes": [{"name": "etc", "hostPath": {"path": "/etc"}}]}
    assert breaches(shared) == ["hostPID is true", "the volume etc is a hostPath"]
