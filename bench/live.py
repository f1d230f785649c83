"""From the store to many live readers over HTTP, in milliseconds; and the memory that the API takes for them.

Readers, the writer, the API and the servers share the machine, so its two cores bound what is seen.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen
from uuid import UUID

import psutil

from bench.measure import Figures, Result, play, quantile
from bench.stack import Stack
from reprieve.models.chunks import Chunk, blocks_of
from reprieve.models.work import Work
from reprieve.stores.embedded.address import choose_port
from reprieve.workers.ingest import ingest

#: Runs that are read, each by as many readers; each prints a line a second.
RUNS = 50


@contextmanager
def api() -> Iterator[tuple[int, psutil.Process]]:
    """The API in a process of its own: its port, and the process."""
    port = choose_port()
    command = [str(Path(sys.executable).parent / "reprieve"), "api"]
    environment = os.environ | {"REPRIEVE_API_ADDRESS": f"127.0.0.1:{port}", "REPRIEVE_API_OPEN": "true"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health/live", timeout=2):
                    break
                time.sleep(0.1)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()


async def read(port: int, run_id: UUID, open_at_once: asyncio.Semaphore, taken: list[float]) -> None:
    """One reader: the age of each line as it comes, in milliseconds."""
    async with open_at_once:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /v1/runs/{run_id}/log/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            now = time.monotonic()
            said = [float(chunk["text"]) for chunk in json.loads(line[6:])["chunks"]]
            taken += [(now - at) * 1000 for at in said]


def print_lines(stack: Stack, works: list[Work], ended: threading.Event) -> None:
    """A line of each run a second, evenly spread; each is the time at which it was said."""
    began, number = time.monotonic(), 0
    while not ended.is_set():
        for place, work in enumerate(works):
            ended.wait(max(0.0, began + number + place / len(works) - time.monotonic()))
            line = str(time.monotonic()).encode()
            chunk = Chunk(work.run_id, 1, work.epoch, number + 1, "stdout", line, None, time.time_ns() // 1_000_000)
            ingest(stack.services, blocks_of([chunk]))
        number += 1


def measure(stack: Stack, readers: int, seconds: float, pieces: int = 1) -> list[Figures]:
    """So many seconds, and again, for each piece: what came of it."""
    works = stack.runs(RUNS)
    taken: list[float] = []
    ended = threading.Event()
    figures: list[Figures] = []

    async def read_all(port: int, process: psutil.Process, before: int) -> None:
        at_once = asyncio.Semaphore(50)
        tasks = [asyncio.create_task(read(port, works[n % RUNS].run_id, at_once, taken)) for n in range(readers)]
        await asyncio.sleep(readers / 100)
        printer.start()
        await asyncio.sleep(3)
        for _ in range(pieces):
            taken.clear()
            await asyncio.sleep(seconds)
            figures.append(_figures(taken, seconds) | _memory(process, before, readers))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with api() as (port, process):
        printer = threading.Thread(target=print_lines, args=(stack, works, ended), daemon=True)
        asyncio.run(read_all(port, process, process.memory_info().rss))
        ended.set()
        printer.join()
    return figures


def _figures(taken: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(taken)
    return {
        "events_per_s": len(ordered) / seconds,
        "p50_ms": quantile(ordered, 0.5),
        "p99_ms": quantile(ordered, 0.99),
        "worst_ms": ordered[-1],
    }


def _memory(process: psutil.Process, before: int, readers: int) -> dict[str, float]:
    now = process.memory_info().rss
    return {"api_mb": now / 2**20, "kb_per_reader": (now - before) / 1024 / readers}


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("live")
    seconds = 3.0 if quick else 30.0
    sizes = (10, 50) if quick else (100, 1000)
    cases: dict[str, Callable[[], Figures]] = {
        f"{readers:,} readers": lambda readers=readers: measure(stack, readers, seconds)[0]  # type: ignore[misc]
        for readers in sizes
    }
    play(result, rounds, cases, say)
    return result
