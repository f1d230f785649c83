"""A container engine: the one that answers here, or one of our own for as long as the tests last."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import spawn
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
#: Where `install.sh` puts Compose and BuildKit, where the system has none.
TOOLS = ROOT / "build" / "containers"


@dataclass(frozen=True)
class Engine:
    """Docker's client, and which engine it asks."""

    environment: Mapping[str, str]

    def docker(
        self, *arguments: str | Path, check: bool = True, timeout: float = 900, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS`; raises `AssertionError` with what it printed, where it fails and `check` is true."""
        done = subprocess.run(
            ["docker", *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"docker {' '.join(map(str, arguments))}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done

    def inspect(self, what: str) -> dict[str, Any]:
        """What the engine knows of a container, an image or a volume."""
        [found] = json.loads(self.docker("inspect", what).stdout)
        assert isinstance(found, dict)
        return found

    def has_image(self, name: str) -> bool:
        return self.docker("image", "inspect", name, check=False).returncode == 0

    def answers(self) -> bool:
        return self.docker("info", "--format", "{{.ServerVersion}}", check=False, timeout=60).returncode == 0


@contextmanager
def engine() -> Iterator[Engine]:
    """The engine of `DOCKER_HOST`, or of this machine; else one that ends, with all that it holds, with the block."""
    environment = {**os.environ, "DOCKER_CONFIG": str(TOOLS)}
    given = Engine(environment)
    if given.answers():
        yield given
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise AssertionError("No container engine answers here; start one, or run this as root.")
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    address = f"unix://{folder}/docker.sock"
    places = (
        "--data-root",
        str(folder / "data"),
        "--exec-root",
        str(folder / "exec"),
        "--pidfile",
        str(folder / "pid"),
    )

    daemon = spawn("dockerd", ["dockerd", "--host", address, *places], environment, folder)
    ours = Engine({**environment, "DOCKER_HOST": address})
    try:
        eventually(ours.answers, timeout=60, what="an engine of our own")
        yield ours
        everything = ours.docker("ps", "--all", "--quiet").stdout.split()
        if everything:
            ours.docker("rm", "--force", "--volumes", *everything)
    finally:
        daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)
