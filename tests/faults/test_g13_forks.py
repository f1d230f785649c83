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


#: Six children that draw ids at once, after their parent has drawn one. Prints what is random of each.
IDS = """
import os, time
from reprieve.client.enqueue import uuid7
uuid7()
begin, children = time.time() + 0.3, []
for _ in range(6):
    reading, writing = os.pipe()
    if os.fork() == 0:
        while time.time() < begin: pass
        os.write(writing, "".join(f"{uuid7().hex[12:]} " for _ in range(3000)).encode())
        os._exit(0)
    os.close(writing)
    children.append(reading)
for reading in children:
    with open(reading) as said: print(said.read())
"""


def test_no_two_children_draw_the_same_ids(tmp_path: Path) -> None:
    """As they did with uuid-utils before 0.14, whose random numbers went on in each child as in its parent. A run with
    the id of another is taken for that one, asked for again: it would be lost.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", IDS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    drawn = done.stdout.split()
    assert len(drawn) == len(set(drawn)) == 6 * 3000
