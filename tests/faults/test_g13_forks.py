"""G13: what a process holds is its own. A child of a fork builds anew, whatever its parent had open."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import text

from reprieve.workers.bootstrap import Services
from tests.conftest import Servers

pytestmark = pytest.mark.row("G13")

#: Six children and their parent ask for runs at once, with what the parent had open before it forked; each by threads.
FORKS = """
import json, multiprocessing, os, sys, threading
from reprieve import cancel_run, enqueue_run
CALLS, THREADS, CHILDREN = int(sys.argv[1]), 2, 6
first = enqueue_run("process", {"command": ["true"]})
cancel_run(first.id)   # Over SQLAlchemy and Celery, which are open now as well.

def ask(said):
    for _ in range(CALLS // THREADS):
        try:
            said.append(str(enqueue_run("process", {"command": ["true"]}).id))
        except BaseException as error:
            said.append(f"{type(error).__name__}: {error}")
    said.append(cancel_run(said[0]).status)

def main(place):
    said = []
    threads = [threading.Thread(target=ask, args=(said,)) for _ in range(THREADS)]
    for one in threads: one.start()
    for one in threads: one.join()
    with open(f"{place}.json", "w") as file:
        json.dump(said, file)

context = multiprocessing.get_context("fork")
children = [context.Process(target=main, args=(place,)) for place in range(CHILDREN)]
for child in children: child.start()
main("parent")
for child in children: child.join()
sys.exit(max(child.exitcode for child in children))
"""


def test_forked_children_and_their_parent_ask_for_runs_at_once_and_each_is_there_once(
    services: Services, servers: Servers, environment: dict[str, str], redis: Redis, tmp_path: Path
) -> None:
    calls = 60
    env = {**os.environ, **servers.environment, **environment}
    command = [sys.executable, "-P", "-W", "ignore", "-c", FORKS, str(calls)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    said = [one for each in told for one in each]
    ids = [one for one in said if one != "cancelled"]
    with services.database.begin() as connection:
        known = {str(row.id) for row in connection.execute(text("SELECT id FROM runs"))}
    assert len(told) == 7
    assert len(ids) == len(set(ids)) == 7 * calls
    assert set(ids) < known
    assert len(known) == 7 * calls + 1
    assert redis.llen("runs") == 7 * calls + 1


def test_a_child_that_ends_does_not_end_what_its_parent_holds(
    services: Services, servers: Servers, environment: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import os, reprieve\n"
        "run = lambda: reprieve.enqueue_run('process', {'command': ['true']})\n"
        "from reprieve.client.link import link\n"
        "before = [run(), link().connections.run('SELECT pg_backend_pid() AS pid')[0].pid][1]\n"
        "child = os.fork()\n"
        "if child == 0: run(); import sys; sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "assert link().connections.run('SELECT pg_backend_pid() AS pid')[0].pid == before\n"
    )
    env = {**os.environ, **servers.environment, **environment}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=env, cwd=tmp_path, stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
