"""Importing a module opens no connection, starts no thread and no process, needs no setting, and gives it one name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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

import reprieve

found = [importlib.import_module(one.name) for one in pkgutil.walk_packages(reprieve.__path__, "reprieve.")]
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
rooms = {module.__name__.split(".")[1] for module in found}
bare = rooms & {name.split(".")[0] for name in sys.modules}
assert not bare, f"imported under two names: {bare}"
print(*(module.__name__ for module in found))
"""


@pytest.mark.parametrize("place", ["an empty folder", "the repository"])
def test_importing_any_module_opens_no_connection_and_starts_nothing_and_gives_it_one_name(
    place: str, tmp_path: Path
) -> None:
    folder = tmp_path if place == "an empty folder" else ROOT
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPRIEVE_")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert {
        "reprieve.workers.app",
        "reprieve.workers.sweep",
        "reprieve.stores.runs",
        "reprieve.adapters.launcher",
    } <= set(done.stdout.split())
    assert list(tmp_path.iterdir()) == []
