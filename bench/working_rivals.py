"""What other queues in PostgreSQL take to do jobs that run a command. Run in an environment of its own, with their
packages and without ours: `python bench/working_rivals.py RIVAL DSN COUNT`. All jobs are there when the worker begins.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable

COMMAND = ["true"]
CONCURRENCY = 8


def procrastinate(dsn: str, count: int) -> float:
    """https://procrastinate.readthedocs.io: synchronous tasks, on threads of the worker."""
    from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

    setting_up = App(connector=SyncPsycopgConnector(conninfo=dsn))
    app = App(connector=PsycopgConnector(conninfo=dsn))
    began: list[float] = []

    def command() -> None:
        began.append(time.perf_counter())
        subprocess.run(COMMAND, check=True, capture_output=True)

    setting_up.task(name="command")(command)
    app.task(name="command")(command)
    with setting_up.open():
        query = setting_up.connector.execute_query_one
        if not query("SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS there")["there"]:
            setting_up.schema_manager.apply_schema()
        setting_up.connector.execute_query("TRUNCATE procrastinate_jobs CASCADE")
        setting_up.tasks["command"].batch_defer(*[{}] * count)

    async def work() -> None:
        async with app.open_async():
            await app.run_worker_async(concurrency=CONCURRENCY, wait=False, install_signal_handlers=False)

    asyncio.run(work())
    return time.perf_counter() - began[0]


def pgqueuer(dsn: str, count: int) -> float:
    """https://pgqueuer.readthedocs.io: an entry point that has each command run on a thread."""

    async def work() -> float:
        import asyncpg
        from pgqueuer import PgQueuer
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        connection = await asyncpg.connect(dsn)
        queries = Queries(AsyncpgDriver(connection))
        if not await connection.fetchval("SELECT to_regclass('pgqueuer') IS NOT NULL"):
            await queries.install()
        await connection.execute("TRUNCATE pgqueuer")
        await queries.enqueue(["command"] * count, [None] * count, [0] * count)
        worker, began, done = PgQueuer(AsyncpgDriver(connection)), list[float](), list[float]()

        @worker.entrypoint("command")  # type: ignore[untyped-decorator]
        async def command(_: object) -> None:
            began.append(time.perf_counter())
            await asyncio.to_thread(subprocess.run, COMMAND, check=True, capture_output=True)
            done.append(time.perf_counter())
            if len(done) == count:
                worker.shutdown.set()

        await worker.run()
        await connection.close()
        return done[-1] - began[0]

    return asyncio.run(work())


RIVALS: dict[str, Callable[[str, int], float]] = {"procrastinate": procrastinate, "pgqueuer": pgqueuer}

if __name__ == "__main__":
    name, address, number = sys.argv[1:]
    sys.stdout.write(json.dumps({"per_second": int(number) / RIVALS[name](address, int(number))}))
