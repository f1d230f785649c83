"""What the last step of the image's build stage does: from what pip has installed to what the image's layers hold.

    assemble.py OUT PACKAGES CYCLONEDX

`OUT/libraries` and `OUT/reprieve` are what pip installed, as roots; PACKAGES lists Debian's packages (name, version and
architecture, a line each); CYCLONEDX is the program that lists Python's. Whatever is written is the same whenever it is
made of the same: sorted, and of the one time that SOURCE_DATE_EPOCH says.
"""

import json
import os
import platform
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any
from urllib.parse import quote

USER = 10001
#: Where the image has the list of what is in it.
INVENTORY = "usr/share/reprieve/sbom.cdx.json"
#: The half of Kubernetes' client for asyncio, which nothing here uses, is larger than all else but the other half.
UNUSED = ("kubernetes/aio",)
TESTS = ("test", "tests")
#: What is imported when it is needed, beside all of our own modules and whatever these import.
LATE = """
    anyio._backends._asyncio anyio.abc anyio.streams.memory anyio.streams.tls billiard.dummy billiard.pool
    celery.app.amqp celery.app.control celery.app.events celery.app.log celery.app.routes celery.apps.beat
    celery.apps.worker celery.bin.celery celery.concurrency.thread celery.events.state celery.worker.autoscale
    celery.worker.components celery.worker.consumer celery.worker.consumer.delayed_delivery celery.worker.pidbox
    celery.worker.strategy fastapi.telemetry._runtime flower.app flower.command flower.urls kombu.transport.redis
    kubernetes.client kubernetes.client.rest kubernetes.config opentelemetry.exporter.otlp.proto.http.trace_exporter
    psycopg2.extras sqlalchemy.dialects.postgresql.psycopg2 tornado.platform.asyncio typer._adapters
    typer._click.decorators uvicorn.lifespan.on uvicorn.loops.asyncio uvicorn.loops.auto uvicorn.protocols.http.auto
    uvicorn.supervisors
"""
#: Prints the files of all that is imported then. What wants an extra that the image lacks is left out.
IMPORT_ALL = """
import importlib, pkgutil, sys
import reprieve
names = [found.name for found in pkgutil.walk_packages(reprieve.__path__, "reprieve.", onerror=lambda name: None)]
for name in sorted(set(names) - {"reprieve.workers.__main__", "reprieve.cli.__main__"}) + sys.argv[1].split():
    try:
        importlib.import_module(name)
    except ImportError:
        print(f"{name} cannot be imported", file=sys.stderr)
for module in list(sys.modules.values()):
    if (getattr(module, "__file__", None) or "").endswith(".py"):
        print(module.__file__)
"""


def main(out: Path, packages: Path, cyclonedx: str) -> None:
    site = sysconfig.get_path("purelib").lstrip("/")
    libraries, ours = out / "libraries", out / "reprieve"
    for name in UNUSED:
        shutil.rmtree(libraries / site / name)
    for folder in sorted((libraries / site).glob("*/**/"), reverse=True):
        if folder.name in TESTS and (folder / "__init__.py").exists():
            shutil.rmtree(folder)
    strip(libraries / site)
    path = f"{ours / site}:{libraries / site}"
    compile_imported(path, [libraries, ours], out / "compiled", ours)
    write_inventory(cyclonedx, path, packages, ours / INVENTORY)
    make_system(out / "system")
    make_owned(out / "owned")
    settle(out, int(os.environ["SOURCE_DATE_EPOCH"]))


def strip(site: Path) -> None:
    """Take what only a debugger reads out of the extension modules: of some, it is nine tenths."""
    for library in sorted(site.rglob("*.so")):
        subprocess.run(["strip", "--strip-debug", library], check=True)


def compile_imported(path: str, roots: list[Path], compiled: Path, ours: Path) -> None:
    """Compile all of ours, and of the rest what it imports: the whole would be three times as much, and nothing of it
    is written down where the file system is read-only.
    """
    command = [sys.executable, "-P", "-c", IMPORT_ALL, LATE]
    environment = {**os.environ, "PYTHONPATH": path}
    told = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    files = {Path(line) for line in told.splitlines()} | set(ours.rglob("*.py"))
    for file in sorted(files):
        root = next((root for root in roots if file.is_relative_to(root)), Path("/"))
        place = Path("/") / file.relative_to(root)
        cache = Path("/") / cache_from_source(str(place))
        if root != Path("/") or not cache.exists():
            target = (ours if root == ours else compiled) / cache.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            # By the content of the source and not by its time, which all files share here.
            mode = py_compile.PycInvalidationMode.CHECKED_HASH
            py_compile.compile(str(file), str(target), str(place), doraise=True, invalidation_mode=mode)


def write_inventory(cyclonedx: str, path: str, packages: Path, target: Path) -> None:
    """A software bill of materials: Python, its distributions by their metadata, and Debian's packages."""
    command = [cyclonedx, "environment", "--output-reproducible", "--output-format", "JSON", sys.executable]
    environment = {**os.environ, "PYTHONPATH": path}
    told = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    inventory: dict[str, Any] = json.loads(told)
    inventory["components"] += [python(), *debian(packages.read_text())]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(inventory, indent=1, sort_keys=True) + "\n")


def python() -> dict[str, str]:
    """Python itself, which the official image has from no package, by the name that lists of flaws use."""
    version = platform.python_version()
    address = f"pkg:generic/python@{version}"
    known_as = f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*"
    return {
        "type": "platform",
        "bom-ref": address,
        "name": "python",
        "version": version,
        "purl": address,
        "cpe": known_as,
    }


def debian(packages: str) -> Iterator[dict[str, str]]:
    """Debian's packages as components, in order."""
    for line in sorted(packages.splitlines()):
        name, version, architecture = line.split()
        address = f"pkg:deb/debian/{name}@{quote(version, safe=':')}?arch={architecture}"
        yield {"type": "library", "bom-ref": address, "name": name, "version": version, "purl": address}


def make_system(root: Path) -> None:
    """The init, and the user by its name: ssh, for one, wants to know who it is."""
    for name in ("usr/bin/tini", "usr/share/doc/tini/copyright"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("/") / name, root / name)
    (root / "etc").mkdir()
    passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
    (root / "etc/passwd").write_text(f"{passwd}reprieve:x:{USER}:{USER}::/home/reprieve:/bin/sh\n")
    (root / "etc/group").write_text(f"{group}reprieve:x:{USER}:\n")


def make_owned(root: Path) -> None:
    """What the user may write to; and its group, which is that of whoever has a number that nobody knows."""
    for name in ("data", "home/reprieve"):
        (root / name).mkdir(parents=True)
        (root / name).chmod(0o775)


def settle(out: Path, time: int) -> None:
    """Give everything the one time."""
    for path in [out, *out.rglob("*")]:
        os.utime(path, (time, time), follow_symlinks=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
