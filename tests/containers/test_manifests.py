"""What the manifests for Kubernetes start, on an engine: the container of each Pod, as its manifest has it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from reprieve.cli.roles import ROLES
from tests.containers.engine import ROOT, Engine
from tests.support.manifests import pods_of
from tests.support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]

Json = dict[str, Any]

FILES = [ROOT / "deploy" / "kubernetes" / name for name in ("migrate.yaml", "reprieve.yaml")]
MANIFESTS: list[Json] = [one for file in FILES for one in yaml.safe_load_all(file.read_text())]
PODS: dict[str, Json] = {pod["containers"][0]["name"]: pod for one in MANIFESTS for pod in pods_of(one)}
SETTINGS = {one["metadata"]["name"]: one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap"}
IMAGE = "reprieve-test-manifests"
PASSWORD = "for-this-test"
#: The Secret that the manifests want, and an archive that can be had here.
SECRET = {
    "REPRIEVE_DATABASE_URL": f"postgresql://reprieve:{PASSWORD}@postgres/reprieve?sslmode=disable",
    "REPRIEVE_REDIS_URL": "redis://redis:6379/0",
    "REPRIEVE_API_TOKENS": "read=for-this-test-only",
    "REPRIEVE_FLOWER_PASSWORD": PASSWORD,
    "REPRIEVE_LOG_ARCHIVE_URL": "file:///data/archive",
}


class Cluster:
    """A network with PostgreSQL and Redis, and Pods of one container in it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = f"manifests-{uuid4().hex[:8]}"
        self._containers: list[str] = []

    def begin(self) -> None:
        self.engine.docker("build", "--tag", IMAGE, ROOT)
        self.engine.docker("network", "create", self.name)
        owner = {"POSTGRES_USER": "reprieve", "POSTGRES_DB": "reprieve", "POSTGRES_PASSWORD": PASSWORD}
        self._run("postgres", "postgres:18", owner)
        self._run("redis", "redis:7", {}, [], ["redis-server", "--protected-mode", "no"])
        ready = ["pg_isready", "--host=127.0.0.1", "--username=reprieve"]
        eventually(lambda: self.succeeds("postgres", *ready), timeout=120)

    def end(self) -> None:
        for container in self._containers:
            self.engine.docker("rm", "--force", "--volumes", container)
        self.engine.docker("network", "rm", self.name)
        self.engine.docker("rmi", IMAGE)

    def start(self, role: str) -> None:
        """The Pod of a role: its user, its file systems, what it may do, its settings and its arguments."""
        pod, container = PODS[role], PODS[role]["containers"][0]
        allowed = container["securityContext"]
        assert allowed["readOnlyRootFilesystem"]
        options = ["--read-only", "--security-opt=no-new-privileges", f"--user={pod['securityContext']['runAsUser']}"]
        options += [f"--cap-drop={name}" for name in allowed["capabilities"]["drop"]]
        limits = {volume["name"]: volume.get("emptyDir", {}).get("sizeLimit") for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            size = limits.get(mount["name"])
            limit = f",size={size.removesuffix('i').lower()}" if size else ""
            # What an emptyDir is, and a volume with an fsGroup: the Pod's user may write there, and nowhere else.
            options.append(f"--tmpfs={mount['mountPath']}:uid={pod['securityContext']['runAsUser']}{limit}")
        settings: dict[str, str] = {}
        for source in container["envFrom"]:
            settings |= SETTINGS[source["configMapRef"]["name"]] if "configMapRef" in source else SECRET
        self._run(role, IMAGE, settings, options, container["args"])

    def _run(
        self,
        role: str,
        image: str,
        settings: Json,
        options: list[str] | None = None,
        arguments: list[str] | None = None,
    ) -> None:
        self._containers.append(self.of(role))
        given = [f"--env={name}={value}" for name, value in settings.items()]
        where = ["--detach", f"--name={self.of(role)}", f"--network={self.name}", f"--network-alias={role}"]
        self.engine.docker("run", *where, *given, *(options or []), image, *(arguments or []))

    def of(self, role: str) -> str:
        return f"{self.name}-{role}"

    def succeeds(self, role: str, *command: str) -> bool:
        return self.engine.docker("exec", self.of(role), *command, check=False).returncode == 0

    def is_ready(self, role: str) -> bool:
        """By its own probe."""
        container = PODS[role]["containers"][0]
        probe = container["readinessProbe"]
        if "exec" in probe:
            return self.succeeds(role, *probe["exec"]["command"])
        (port,) = (one["containerPort"] for one in container["ports"] if one["name"] == probe["httpGet"]["port"])
        address = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
        return self.succeeds(role, "python", "-c", f"import urllib.request as r; r.urlopen('{address}', timeout=5)")

    def said(self, role: str) -> str:
        done = self.engine.docker("logs", "--tail=40", self.of(role), check=False)
        return done.stdout + done.stderr

    def stopped(self, role: str) -> int:
        """Its exit status, once it was told to end and had the time that its Pod has."""
        self.engine.docker("stop", f"--time={PODS[role]['terminationGracePeriodSeconds']}", self.of(role))
        return int(self.engine.inspect(self.of(role))["State"]["ExitCode"])


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    cluster = Cluster(engine)
    try:
        cluster.begin()
        cluster.start("migrate")
        status = engine.docker("wait", cluster.of("migrate")).stdout.strip()
        assert status == "0", cluster.said("migrate")
        yield cluster
    finally:
        cluster.end()


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_pod_starts_as_its_manifest_has_it_gets_ready_and_ends_when_it_is_told_to(
    cluster: Cluster, role: str
) -> None:
    cluster.start(role)
    eventually(lambda: cluster.is_ready(role), timeout=180, interval=1, what=lambda: cluster.said(role))
    assert cluster.stopped(role) != 137, cluster.said(role)


def test_the_health_that_helm_asks_for_needs_no_more_than_its_pod_has(cluster: Cluster) -> None:
    template = (Path(ROOT) / "deploy/helm/reprieve/templates/tests/health.yaml").read_text()
    assert "args: [reprieve, health]" in template
    options = ["--rm", "--read-only", "--user=10001", f"--network={cluster.name}", "--cap-drop=ALL", "--tmpfs=/tmp"]
    given = [f"--env={name}={value}" for name, value in (SETTINGS["reprieve"] | SECRET).items()]
    done = cluster.engine.docker("run", *options, *given, IMAGE, "reprieve", "health", check=False)
    # Nothing swept yet, which it says; it came as far as that.
    assert "sweep" in done.stdout + done.stderr
