"""The Helm chart: what it makes of values of every kind, and what it says of wrong ones."""

import base64
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm import CHART, HelmFailed, helm, manifests, rendered
from tests.chart.server import holding
from tests.support.manifests import breaches, check, pods_of, unchangeable

pytestmark = pytest.mark.chart

VALUES = Path(__file__).parent / "values"
LEAST, EVERYTHING, HOSTILE = (VALUES / f"{name}.yaml" for name in ("least", "everything", "hostile"))
SETS = sorted(VALUES.glob("*.yaml"))
#: As long as Helm lets the name of a release be.
LONGEST = "a-release-with-a-name-that-is-as-long-as-it-may-be-at"

Json = dict[str, Any]


def found(release: list[Json], kind: str, name: str) -> Json:
    (one,) = [one for one in release if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return one


def kinds(release: list[Json]) -> set[str]:
    return {one["kind"] for one in release}


def container_of(manifest: Json) -> Json:
    (container,) = next(pods_of(manifest))["containers"]
    return dict(container)


def refusal(*arguments: str, values: Path | None = LEAST) -> str:
    """What is said of values that are refused."""
    with pytest.raises(HelmFailed) as refused:
        rendered(values, *arguments)
    return str(refused.value)


# -- of the form


@pytest.mark.parametrize("values", SETS, ids=lambda one: str(one.stem))
def test_helm_has_nothing_to_say_against_it(values: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "--values", values)


def test_helm_has_nothing_to_say_against_its_defaults() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


@pytest.mark.parametrize("values", SETS, ids=lambda one: str(one.stem))
def test_all_that_it_makes_is_what_kubernetes_takes_and_restricted_allows(values: Path) -> None:
    release = rendered(values)
    for manifest in release:
        check(manifest)
        assert [breaches(pod) for pod in pods_of(manifest) if breaches(pod)] == []
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in release]
    assert len(names) == len(set(names))


def test_the_plain_manifests_are_what_it_makes() -> None:
    for path, text in manifests().items():
        assert path.read_text() == text, f"{path.name}: make manifests"


def test_what_is_off_by_default_is_not_there_and_what_is_asked_for_is() -> None:
    asked = {
        "Ingress",
        "ServiceMonitor",
        "PodMonitor",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "Role",
        "RoleBinding",
    }
    assert not kinds(rendered(LEAST)) & asked
    assert kinds(rendered(EVERYTHING)) >= asked


# -- names


def test_two_releases_in_one_namespace_share_nothing() -> None:
    one, other = (rendered(EVERYTHING, release=name) for name in ("reprieve", "reprieve-2"))
    assert not {(a["kind"], a["metadata"]["name"]) for a in one} & {(b["kind"], b["metadata"]["name"]) for b in other}
    for service in (a for a in one if a["kind"] == "Service"):
        for workload in (b for b in other if b["kind"] in ("Deployment", "StatefulSet")):
            labels = workload["spec"]["template"]["metadata"]["labels"]
            assert not service["spec"]["selector"].items() <= labels.items()


def test_two_releases_of_one_name_may_share_a_namespace_of_jobs() -> None:
    one, other = (rendered(EVERYTHING, "--namespace", name) for name in ("a", "b"))
    roles = [{thing["metadata"]["name"] for thing in release if thing["kind"] == "Role"} for release in (one, other)]
    assert not roles[0] & roles[1]


@pytest.mark.parametrize("release", [LONGEST, "1st", "with.dots", "r", "123", "1e3", "reprieve"])
def test_every_name_is_one_that_kubernetes_takes(release: str) -> None:
    assert len(LONGEST) == 53
    for manifest in rendered(EVERYTHING, release=release):
        check(manifest)
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "Service":
            assert len(name) <= 63
            assert name[0].isalpha()
            assert "." not in name
        if manifest["kind"] == "StatefulSet":
            # Its Pods have a label of the name, a hyphen and a hash of ten.
            assert len(name) + 11 <= 63
        if manifest["kind"] == "Job":
            assert len(name) <= 63


def test_names_that_are_cut_are_not_made_the_same() -> None:
    some = [LONGEST, LONGEST[:-1] + "x", "a.b", "a-b", "1st", "r1st"]
    names = [found_names(release) for release in some]
    assert len(set(names)) == len(some)


def found_names(release: str) -> str:
    (config,) = [one for one in rendered(LEAST, "--no-hooks", release=release) if one["kind"] == "ConfigMap"]
    return str(config["metadata"]["name"])


# -- upgrades


@pytest.mark.parametrize("values", [LEAST, EVERYTHING], ids=lambda one: str(one.stem))
def test_an_upgrade_changes_nothing_that_cannot_be_changed(values: Path, tmp_path: Path) -> None:
    """A version among the labels of a volume, say, and no upgrade would ever be taken."""
    newer = tmp_path / "reprieve"
    shutil.copytree(CHART, newer)
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(text.replace("ersion: 0.1.0", "ersion: 9.9.9"))
    before, after = rendered(values), rendered(values, chart=newer)
    assert before != after
    assert fixed(before) == fixed(after)


def test_a_release_of_the_same_name_takes_the_place_of_the_plain_manifests() -> None:
    """`helm install --take-ownership`: the Pods, their volumes and their names are those that are there."""
    plain = rendered(CHART.parent / "plain.yaml", release="reprieve")
    assert fixed(plain) == fixed(rendered(LEAST, release="reprieve"))


def fixed(release: list[Json]) -> dict[tuple[str, str], Any]:
    return {(one["kind"], one["metadata"]["name"]): unchangeable(one) for one in release}


def test_a_changed_setting_starts_the_pods_anew_and_an_unchanged_one_does_not() -> None:
    def template(*arguments: str) -> Json:
        workload = found(rendered(LEAST, *arguments), "Deployment", "reprieve-api")
        return dict(workload["spec"]["template"])

    assert template() == template("--set", "jobs.namespaces={jobs}")
    assert template() != template("--set", "config.REPRIEVE_LOG_FORMAT=json")


def test_the_migration_comes_before_all_else_and_with_settings_of_its_own() -> None:
    release = rendered(EVERYTHING)
    hooks = [one for one in release if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    before = [one for one in hooks if one["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"]
    job = found(before, "Job", "reprieve-fleet-migrate")
    named = {
        ("ConfigMap", ref["configMapRef"]["name"]) for ref in container_of(job)["envFrom"] if "configMapRef" in ref
    }
    named |= {("Secret", ref["secretRef"]["name"]) for ref in container_of(job)["envFrom"] if "secretRef" in ref}
    assert named <= {(one["kind"], one["metadata"]["name"]) for one in before}
    for settings in before:
        if settings["kind"] != "Job":
            assert "hook-succeeded" in settings["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert next(pods_of(job)).get("serviceAccountName") is None, "that of the release is not there yet"


# -- live runs


def test_a_worker_of_runs_has_a_minute_more_to_end_than_it_drains() -> None:
    workload = found(rendered(EVERYTHING), "StatefulSet", "reprieve-fleet-worker-runs")
    settings = found(rendered(EVERYTHING), "ConfigMap", "reprieve-fleet")
    assert settings["data"]["REPRIEVE_DRAIN_SECONDS"] == "3600"
    assert next(pods_of(workload))["terminationGracePeriodSeconds"] == 3660


def test_who_sets_the_drain_elsewhere_is_told_where() -> None:
    assert "Set drainSeconds in place of config.REPRIEVE_DRAIN_SECONDS" in refusal(
        "--set", "config.REPRIEVE_DRAIN_SECONDS=900"
    )


def test_an_upgrade_does_not_undo_what_the_autoscaler_did() -> None:
    release = rendered(LEAST, "--set", "autoscaling.enabled=true")
    assert "replicas" not in found(release, "StatefulSet", "reprieve-worker-runs")["spec"]


def test_to_turn_the_autoscaler_on_ends_no_worker(tmp_path: Path) -> None:
    """A number that is taken out of a release counts as 1, until the autoscaler comes to it."""
    on = ("--set", "autoscaling.enabled=true")
    workers = found(rendered(LEAST), "StatefulSet", "reprieve-worker-runs")
    owner = {"meta.helm.sh/release-name": "reprieve", "meta.helm.sh/release-namespace": "fleet"}
    workers["metadata"] |= {"namespace": "fleet", "annotations": owner}
    workers["spec"]["replicas"] = 17
    made = {(one["apiVersion"], one["kind"]) for one in rendered(LEAST, *on)}
    with holding([workers], made, tmp_path) as config:
        asking = ("--kubeconfig", str(config), "--dry-run=server", "--disable-openapi-validation")
        release = rendered(LEAST, *on, *asking)
        assert found(release, "StatefulSet", "reprieve-worker-runs")["spec"]["replicas"] == 17
        assert found(rendered(LEAST, *asking), "StatefulSet", "reprieve-worker-runs")["spec"]["replicas"] == 2
    assert found(rendered(LEAST), "StatefulSet", "reprieve-worker-runs")["spec"]["replicas"] == 2


def test_no_autoscaler_ends_a_worker_unless_it_is_told_to_and_then_one_at_a_time() -> None:
    asked = ["--set", "autoscaling.enabled=true"]
    down = found(rendered(LEAST, *asked), "HorizontalPodAutoscaler", "reprieve-worker-runs")["spec"]["behavior"]
    assert down["scaleDown"] == {"selectPolicy": "Disabled"}
    asked += ["--set", "autoscaling.scaleDown=true"]
    down = found(rendered(LEAST, *asked), "HorizontalPodAutoscaler", "reprieve-worker-runs")["spec"]["behavior"]
    assert down["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 660}]


def test_runs_may_write_more_to_tmp_than_a_role_of_ours_needs() -> None:
    release = rendered(LEAST)
    sizes = {
        volume["emptyDir"]["sizeLimit"]: one["metadata"]["name"]
        for one in release
        for pod in pods_of(one)
        for volume in pod["volumes"]
        if volume["name"] == "tmp"
    }
    assert sizes.keys() == {"64Mi", "1Gi"}
    assert sizes["1Gi"] == "reprieve-worker-runs"


def test_no_volume_is_deleted_with_its_pod() -> None:
    policy = found(rendered(LEAST), "StatefulSet", "reprieve-worker-runs")["spec"][
        "persistentVolumeClaimRetentionPolicy"
    ]
    assert policy == {"whenScaled": "Retain", "whenDeleted": "Retain"}


def test_a_role_with_several_pods_has_a_budget_and_one_with_a_single_pod_has_none() -> None:
    budgets = {one["metadata"]["name"] for one in rendered(LEAST) if one["kind"] == "PodDisruptionBudget"}
    assert budgets == {f"reprieve-{role}" for role in ("worker-runs", "worker-logs", "worker-control", "beat", "api")}
    assert all(one["spec"]["maxUnavailable"] == 1 for one in rendered(LEAST) if one["kind"] == "PodDisruptionBudget")


def test_a_worker_of_runs_that_is_not_ready_is_not_free_to_go() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"]["unhealthyPodEvictionPolicy"]
        for one in rendered(LEAST)
        if one["kind"] == "PodDisruptionBudget"
    }
    assert policies["reprieve-worker-runs"] == "IfHealthyBudget"
    assert policies["reprieve-api"] == "AlwaysAllow"


# -- values


def test_hostile_values_arrive_as_they_were_written() -> None:
    release = rendered(HOSTILE)
    settings = found(release, "ConfigMap", "reprieve")["data"]
    assert settings["REPRIEVE_LOG_ARCHIVE_URL"] == 's3://{{ fail "no" }}/"quoted" \'and\' $(this) # ${that}'
    assert settings["REPRIEVE_PAGE_URL"] == 'http://a\nREPRIEVE_API_OPEN: "true"'
    assert settings["REPRIEVE_SPOOL_BYTES"] == "10000000"
    assert settings["REPRIEVE_LOG_RETENTION_DAYS"] == "0.5"
    assert (settings["REPRIEVE_LANES"], settings["REPRIEVE_API_OPEN"]) == ("yes", "true")
    assert settings == found(release, "ConfigMap", "reprieve-migrate")["data"]
    secret = {
        name: base64.b64decode(text).decode() for name, text in found(release, "Secret", "reprieve")["data"].items()
    }
    assert secret["REPRIEVE_REDIS_PASSWORD"] == "{{ .Release.Name }} \"'`$(HOME) $$ \\ # : - |"
    assert secret["REPRIEVE_DATABASE_PASSWORD"] == "two\nlines\n"
    assert secret["NUMBER"] == "0123"
    worker = found(release, "StatefulSet", "reprieve-worker-runs")
    assert container_of(worker)["args"] == ["reprieve", "start", "worker-runs", "--hostname={{x}}\"'", "no"]
    assert (
        worker["spec"]["template"]["metadata"]["annotations"] | {"a": "{{ b }}", "c": "null", "d": "1e3", "e": "- x: |"}
        == worker["spec"]["template"]["metadata"]["annotations"]
    )


def test_labels_of_ones_own_do_not_move_pods_to_another_role() -> None:
    for workload in rendered(HOSTILE):
        if workload["kind"] in ("Deployment", "StatefulSet"):
            wanted = workload["spec"]["selector"]["matchLabels"]
            assert wanted.items() <= workload["spec"]["template"]["metadata"]["labels"].items()


def test_what_a_role_has_of_its_own_counts_before_what_all_have() -> None:
    release = rendered(EVERYTHING)
    runs = next(pods_of(found(release, "StatefulSet", "reprieve-fleet-worker-runs")))
    logs = next(pods_of(found(release, "Deployment", "reprieve-fleet-worker-logs")))
    assert (runs["nodeSelector"], logs["nodeSelector"]) == ({"pool": "runs"}, {"pool": "general"})
    assert "tolerations" not in runs
    assert logs["tolerations"][0]["key"] == "dedicated"
    assert [one["name"] for one in runs["containers"][0]["env"]] == ["HTTPS_PROXY", "DEMO"]
    assert runs["topologySpreadConstraints"][0]["labelSelector"] == {"matchLabels": {"mine": "yes"}}
    of_runs, of_logs = (
        found(release, kind, f"reprieve-fleet-{role}")["spec"]["template"]["metadata"]
        for kind, role in (("StatefulSet", "worker-runs"), ("Deployment", "worker-logs"))
    )
    assert (of_runs["labels"]["team"], of_logs["labels"]["team"]) == ("runs", "platform")
    assert "example.com/owner" in of_logs["annotations"]
    assert "example.com/owner" not in of_runs["annotations"]


def test_what_all_pods_have_those_of_the_migration_and_the_test_have_as_well() -> None:
    """Without it a policy may refuse them, no node take them, or a mesh keep the migration from ever ending."""
    release = rendered(EVERYTHING)
    migration = found(release, "Job", "reprieve-fleet-migrate")["spec"]["template"]
    for pod in (migration, found(release, "Pod", "reprieve-fleet-health")):
        assert pod["metadata"]["annotations"]["example.com/owner"] == "platform"
        assert pod["metadata"]["labels"]["team"] == "platform"
        assert pod["metadata"]["labels"]["app.kubernetes.io/component"] in ("migrate", "health")
        assert (pod["spec"]["nodeSelector"], pod["spec"]["priorityClassName"]) == ({"pool": "general"}, "high")
        assert pod["spec"]["tolerations"][0]["key"] == "dedicated"


def test_a_digest_counts_before_a_tag() -> None:
    image = container_of(found(rendered(EVERYTHING), "Deployment", "reprieve-fleet-api"))["image"]
    assert image.startswith("registry.example:5000/team/reprieve@sha256:4355")


def test_the_workers_may_act_in_the_namespaces_of_jobs_and_nowhere_else() -> None:
    bound = [one for one in rendered(EVERYTHING) if one["kind"] == "RoleBinding"]
    assert [one["metadata"]["namespace"] for one in bound] == ["jobs", "more-jobs"]
    (subject,) = bound[0]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "reprieve-fleet-worker", "namespace": "fleet"}


def test_the_page_is_where_the_ingress_has_it() -> None:
    settings = found(rendered(EVERYTHING), "ConfigMap", "reprieve-fleet")["data"]
    assert settings["REPRIEVE_PAGE_URL"] == "https://jobs.example.com/reprieve"
    assert settings["REPRIEVE_API_ROOT_PATH"] == "/reprieve"


# -- wrong values


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["secret.name=", "secret.values=null"],
            "No Secret is given. Make one (kubectl create secret generic reprieve",
        ),
        (["secret.values.A=b"], "Give either secret.name, of a Secret that is there, or secret.values"),
        (["config.REPRIEVE_LOG_ARCHIVE_URL="], "Where closed logs go is not given"),
        (["ingress.enabled=true"], "ingress.enabled needs ingress.host"),
        (["serviceAccount.create=false"], "serviceAccount.create is false, so give serviceAccount.name"),
        (["monitoring.enabled=true"], "monitoring.enabled needs monitoring.token.secret"),
        (["autoscaling.enabled=true", "autoscaling.maxReplicas=1"], "autoscaling.maxReplicas (1) is less than"),
        (["roles.worker-runs.replicas=two"], "at '/roles/worker-runs/replicas': got string, want integer"),
        (["roles.worker-run.replicas=2"], "additional properties 'worker-run' not allowed"),
        (["image.digest=latest"], "'latest' does not match pattern"),
        (["config.lower=1"], "'lower' does not match pattern"),
        (["config.REPRIEVE_API_ADDRESS=0.0.0.0:9000"], "config.REPRIEVE_API_ADDRESS must end in :8000"),
        (["config.REPRIEVE_API_ADDRESS="], "config.REPRIEVE_API_ADDRESS must end in :8000"),
        (["config.REPRIEVE_METRICS_ADDRESS=0.0.0.0:80"], "config.REPRIEVE_METRICS_ADDRESS must end in :9808"),
        (["secret.name=", "secret.values.A=123"], "at '/secret/values/A': got number, want string"),
        (["roles.worker-runs.tmpSize=much"], "'much' does not match pattern"),
        (["drainSeconds=null"], "missing property 'drainSeconds'"),
        (["roles.flower=null"], "missing property 'flower'"),
        (["roles.worker-archive.replicas=null"], "missing property 'replicas'"),
        (["roles.worker-runs.storage.size=null"], "missing property 'size'"),
        (["autoscaling=null"], "missing property 'autoscaling'"),
    ],
)
def test_a_wrong_value_gets_a_sentence(arguments: list[str], told: str) -> None:
    assert told in refusal(*(part for one in arguments for part in ("--set", one)))


@pytest.mark.parametrize(
    "emptied",
    [
        *(
            "pods.labels",
            "pods.annotations",
            "pods.env",
            "pods.volumes",
            "pods.affinity",
            "pods.topologySpreadConstraints",
        ),
        *(
            "roles.api.resources",
            "migrate.resources",
            "jobs.namespaces",
            "imagePullSecrets",
            "image.tag",
            "nameOverride",
        ),
        "monitoring.labels",
    ],
)
def test_null_is_as_good_as_nothing_where_nothing_will_do(emptied: str) -> None:
    monitoring = ("monitoring.enabled=true", "monitoring.token.secret=prometheus")
    arguments = (part for one in (*monitoring, f"{emptied}=null") for part in ("--set", one))
    for manifest in rendered(LEAST, *arguments):
        check(manifest)


def test_logs_that_stay_in_the_database_need_no_archive() -> None:
    arguments = ("--set", "config.REPRIEVE_LOG_ARCHIVE_URL=", "--set", "roles.worker-archive.replicas=0")
    assert "REPRIEVE_LOG_ARCHIVE_URL" not in found(rendered(LEAST, *arguments), "ConfigMap", "reprieve")["data"]


def test_the_notes_say_what_comes_next() -> None:
    said = helm("install", "reprieve", CHART, "--dry-run=client", "--values", LEAST, "--namespace", "fleet")
    assert "kubectl exec --namespace fleet deploy/reprieve-api -- reprieve doctor" in said
    assert "jobs.namespaces" in said
