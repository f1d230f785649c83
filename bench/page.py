"""A log on the page, in a Chromium: its longest task while a run prints, and its memory; a million lines, and a search.

A long task is what the browser itself reports as one: more than 50 ms in which the page answers nobody. It counts the
time for which something else had the processor, too; what the page itself took is the longest task by the processor's
time, of the last ten seconds. `make test-browser` installs what is needed.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench.live import api
from bench.measure import Figures, Result, play
from bench.stack import Stack
from reprieve.models.chunks import Chunk, blocks_of
from reprieve.models.work import Work
from reprieve.workers.ingest import ingest

#: Keeps the lengths of all long tasks, in milliseconds.
WATCH = """
window.tasks = [];
new PerformanceObserver(list => { for (const task of list.getEntries()) window.tasks.push(task.duration); })
  .observe({ type: 'longtask', buffered: true });
"""
LINE = b"\x1b[32mINFO\x1b[0m step %d of very many, which took 0.123 s and is told in a line as long as most are\n"


def store(stack: Stack, work: Work, seq: int, first: int, count: int) -> None:
    text = b"".join(LINE % number for number in range(first, first + count))
    now = time.time_ns() // 1_000_000
    pieces = [text[at : at + 60_000] for at in range(0, len(text), 60_000)]
    ingest(
        stack.services,
        blocks_of(
            [
                Chunk(work.run_id, 1, work.epoch, seq + place, "stdout", piece, None, now)
                for place, piece in enumerate(pieces)
            ]
        ),
    )


def figures_of(page: Any) -> dict[str, float]:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    measured = session.send("Runtime.getHeapUsage")
    heap, arrays = measured["usedSize"], measured.get("backingStorageSize", 0)
    tasks = page.evaluate("window.tasks.splice(0)")
    return {
        "longest_task_ms": max(tasks, default=0.0),  # Of 50 and more; 0 where there was none.
        "long_tasks": len(tasks),
        "heap_mb": (heap + arrays) / 2**20,
    }


def longest_by_processor(trace: bytes) -> float:
    """The longest task of the page's main thread, in milliseconds of processor time."""
    events = json.loads(trace)["traceEvents"]
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [event for event in events if event["name"] == "RunTask" and (event["pid"], event["tid"]) in mains]
    return max(float(task.get("tdur", 0)) for task in tasks) / 1000


def printing(stack: Stack, open_page: Callable[[Work], Any], seconds: float, rate: int) -> Figures:
    """So many lines a second, ten times a second; the memory of the last third beside that of the first."""
    (work,) = stack.runs(1)
    page = open_page(work)
    ended = threading.Event()

    def print_lines() -> None:
        began, number = time.monotonic(), 0
        while not ended.is_set():
            ended.wait(max(0.0, began + number / 10 - time.monotonic()))
            store(stack, work, number + 1, number * rate // 10, rate // 10)
            number += 1

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    page.wait_for_timeout(3000)  # The page itself is loaded.
    page.evaluate("window.tasks.splice(0)")
    page.wait_for_timeout(1000 * seconds / 3)
    early = figures_of(page)
    page.wait_for_timeout(1000 * seconds / 3)
    browser = page.context.browser
    browser.start_tracing(page=page, categories=["toplevel", "disabled-by-default-devtools.timeline"])
    page.wait_for_timeout(1000 * min(10, seconds / 3))
    by_processor = longest_by_processor(browser.stop_tracing())
    late = figures_of(page)
    lines = page.locator("#lines .number").last.get_attribute("data-number")
    ended.set()
    printer.join()
    page.context.close()
    longest = max(early["longest_task_ms"], late["longest_task_ms"])
    many = early["long_tasks"] + late["long_tasks"]
    return {
        "lines": float(lines),
        "longest_task_ms": longest,
        "long_tasks": many,
        "by_processor_ms": by_processor,
        "early_mb": early["heap_mb"],
        "late_mb": late["heap_mb"],
    }


def million(stack: Stack, open_page: Callable[[Work], Any], lines: int) -> Figures:
    """What is stored of so many lines is loaded, then searched; the search finds all of them."""
    (work,) = stack.runs(1)
    seq = 1
    for first in range(0, lines, 10_000):
        store(stack, work, seq, first, 10_000)
        seq = stack.services.logs.last_seq(work.run_id, 1) + 1
    began = time.monotonic()
    page = open_page(work)
    last = page.locator(f"#lines .number[data-number='{lines}']")
    last.wait_for(timeout=300_000)
    loaded = time.monotonic()
    loading = figures_of(page)
    searched = time.monotonic()
    page.get_by_label("Search").fill("very many")
    page.get_by_text(f"{lines:,} lines", exact=True).wait_for(timeout=300_000)
    found = time.monotonic()
    searching = figures_of(page)
    page.context.close()
    return {
        "load_s": loaded - began,
        "load_longest_task_ms": loading["longest_task_ms"],
        "search_s": found - searched,
        "search_longest_task_ms": searching["longest_task_ms"],
        "heap_mb": searching["heap_mb"],
    }


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    from playwright.sync_api import sync_playwright

    result = Result("page")
    with ExitStack() as ending:
        port, _ = ending.enter_context(api())
        playwright = ending.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        ending.callback(browser.close)

        def open_page(work: Work) -> Any:
            page = browser.new_context(base_url=f"http://127.0.0.1:{port}").new_page()
            page.add_init_script(WATCH)
            page.goto(f"/#/runs/{work.run_id}")
            return page

        seconds, lines = (6.0, 20_000) if quick else (120.0, 1_000_000)
        cases = {
            "1,000 lines/s": lambda: printing(stack, open_page, seconds, 1000),
            f"{lines:,} lines": lambda: million(stack, open_page, lines),
        }
        play(result, rounds, cases, say)
    return result
