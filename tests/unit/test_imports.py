"""Importing a module opens no connection, starts no thread and no process, and needs no setting."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Imports every module of the product where a connection would be noticed; says how many there were.
IMPORT_ALL = """
import importlib, pkgutil, socket, subprocess, sys, threading
import psycopg2

def refuse(*arguments, **options):
    raise SystemExit(f"a connection or a process at import: {arguments[1:]!r}")

for owner, names in (
    (socket.socket, ("connect", "connect_ex", "bind")),
    (socket, ("create_connection", "getaddrinfo")),
    (psycopg2, ("connect",)),
    (subprocess.Popen, ("__init__",)),
):
    for name in names:
        setattr(owner, name, refuse)

rooms = ["models", "adapters", "stores", "workers", "api", "simulation", "cli", "beat_schedule"]
found = []
for room in rooms:
    found.append(importlib.import_module(room))
    for module in pkgutil.walk_packages(getattr(found[-1], "__path__", []), room + "."):
        found.append(importlib.import_module(module.name))
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
print(*(module.__name__ for module in found))
"""


def test_importing_any_module_opens_no_connection_and_starts_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPRIEVE_")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert {"workers.app", "workers.reaper", "stores.runs", "adapters.launcher"} <= set(done.stdout.split())
    assert list(tmp_path.iterdir()) == []
