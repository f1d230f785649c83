"""`reprieve demo`: five runs whose ends show what Reprieve is for, on servers and workers of their own.

Every story is real: real PostgreSQL, Redis, Celery workers and beat, commands as processes, and `kill -9` where
something dies. The demo judges itself: exit status 0 only if each run came to the end that was foretold, in time, and
no process is left.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reprieve.cli.door import page_address, token_of_up
from reprieve.cli.render import terminal
from reprieve.cli.roles import ROLES
from reprieve.cli.sentences import say
from reprieve.cli.stack import Stack
from reprieve.cli.story import Story, event_text
from reprieve.client.enqueue import enqueue_run
from reprieve.models.errors import ReprieveError
from reprieve.models.liveness import Timing
from reprieve.models.status import EventKind, Status
from reprieve.models.text import shown, span
from reprieve.stores.embedded import EmbeddedPostgres
from reprieve.workers import bootstrap
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.explaining import explain
from reprieve.workers.servers import PARTS, SERVERS
from reprieve.workers.settings import load_settings

#: All timings divided by this: a window of 10 seconds.
DEMO_SCALE = 30


class Demo:
    """Tells the stories on a stack that is up."""

    def __init__(self, services: Services, console: Console) -> None:
        self._services = services
        self._console = console
        self._timing = services.timing
        self._began = time.monotonic()
        self._stories: list[Story] = []

    def say(self, name: str, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:6.1f} s  [bold]{name:<9}[/] {text}", highlight=False)

    def tell(self) -> bool:
        """All five stories; True if every one came out."""
        self._until(
            "the workers are ready",
            lambda: len(app.control.ping(timeout=1.0)) == sum(name.startswith("worker-") for name in ROLES),
            seconds=60,
        )
        # Short in the demo, several windows long; in real time, long enough to be reaped if it were not refreshed.
        several = self._timing.window.total_seconds() * (3 if self._timing.window.total_seconds() < 60 else 1.4)
        self._adopted(several)
        self._orphaned()
        self._chatty(several)
        self._quiet(several * 0.9)
        killed = self._killed()
        limit = several + 3 * (self._timing.window + self._timing.sweep_interval).total_seconds() + 60
        self._until("every run has ended", self._all_ended, seconds=limit)
        came_out = self._judge()
        self._why(killed)
        return came_out

    def _adopted(self, seconds: float) -> None:
        lines = int(seconds * 4)
        command = f"n=0; while [ $n -lt {lines} ]; do n=$((n + 1)); echo line $n; sleep 0.25; done"
        told = "detached; its worker is killed too, and it goes on"
        story = self._start("adopted", told, "followed by another worker, then succeeded", "detached", command)
        story.lines = lines
        self._until("it prints", lambda: self._services.logs.last_seq(story.run_id, 1) >= 3, seconds=30)

    def _orphaned(self) -> None:
        command = 'if [ "$REPRIEVE_ATTEMPT" = 1 ]; then sleep 3600; fi; echo second attempt'
        told = "in-process; its worker is killed, it is started again"
        story = self._start("orphaned", told, "process_lost, then succeeded", "process", command, max_attempts=2)
        story.must_be_reaped = True
        self._until("it is running", lambda: self._spawned(story), seconds=30)
        worker = self._services.runs.get(story.run_id).attempts[0].worker_node
        pid = next(iter(app.control.inspect([worker], timeout=5.0).stats().values()))["pid"]
        os.kill(pid, signal.SIGKILL)
        self.say(story.name, f"[red]kill -9[/] of its worker {escape(shown(worker))} (pid {pid}); another is started")
        self._until("another worker is ready", lambda: self._answers(worker, pid), seconds=60)

    def _chatty(self, seconds: float) -> None:
        pause = self._timing.refresh_interval.total_seconds() / 8
        command = f"end=$(($(date +%s) + {seconds:.0f})); while [ $(date +%s) -lt $end ]; do date; sleep {pause}; done"
        self._start("chatty", f"detached; prints for {span(seconds)} and must live", "succeeded", "detached", command)

    def _quiet(self, seconds: float) -> None:
        told = f"in-process; says nothing for {span(seconds)} and must live"
        self._start("quiet", told, "succeeded", "process", f"sleep {seconds:.0f}")

    def _killed(self) -> Story:
        command = "while true; do date; sleep 0.2; done"
        told = "detached; prints, until its process is killed"
        story = self._start("killed", told, "adapter_liveness_lost", "detached", command)
        story.must_be_reaped = True
        self._until("it prints", lambda: self._services.logs.last_seq(story.run_id, 1) >= 3, seconds=30)
        handle = self._services.runs.get(story.run_id).attempts[0].handle or {}
        os.kill(handle["pid"], signal.SIGKILL)
        self.say(story.name, f"[red]kill -9[/] of its launcher (process {handle['pid']}), with which its command dies")
        return story

    def _start(self, name: str, told: str, expected: str, adapter: str, script: str, *, max_attempts: int = 1) -> Story:
        run = enqueue_run(adapter, {"command": ["sh", "-c", script]}, labels={"demo": name}, max_attempts=max_attempts)
        story = Story(name, told, expected, run.id)
        self._stories.append(story)
        self.say(name, told)
        return story

    def _spawned(self, story: Story) -> bool:
        return any(event.kind == EventKind.SPAWNED for event in self._services.runs.events(story.run_id))

    def _answers(self, worker: str, old_pid: int) -> bool:
        stats = app.control.inspect([worker], timeout=1.0).stats() or {}
        return any(answer["pid"] != old_pid for answer in stats.values())

    def _all_ended(self) -> bool:
        """All are at their end, and the logs in which lines are counted are whole."""
        runs = [self._services.runs.get(story.run_id) for story in self._stories]
        counted = [story.run_id for story in self._stories if story.lines is not None]
        return all(Status(run.status).is_final for run in runs) and not any(
            self._services.closings.state(run_id, 1).missing for run_id in counted
        )

    def _until(self, what: str, condition: Callable[[], object], *, seconds: float) -> None:
        """Wait for a condition, telling what happens meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            self._tell_events()
            if time.monotonic() > deadline:
                raise ReprieveError(f"The demo waited {span(seconds)} in vain until {what}.")
            time.sleep(0.2)
        self._tell_events()

    def _tell_events(self) -> None:
        for story in self._stories:
            events = self._services.runs.events(story.run_id)
            for event in events[story.events_told :]:
                if event.kind not in (EventKind.ENQUEUED, EventKind.SPAWNED, EventKind.DISPATCHED):
                    self.say(story.name, event_text(event))
            story.events_told = len(events)

    def _judge(self) -> bool:
        table = Table(title="What was foretold, and what happened", title_justify="left", box=None, pad_edge=False)
        for column in ("RUN", "EXPECTED", "SEEN", "FOUND AFTER ITS LAST SIGN OF LIFE", ""):
            table.add_column(column)
        all_good = True
        for story in self._stories:
            story.learn(self._services.runs.get(story.run_id), list(self._services.runs.events(story.run_id)))
            good = story.came_out(self._timing) and self._is_whole(story)
            all_good = all_good and good
            found = span(story.found_after) if story.found_after is not None else "-"
            verdict = "[green]as expected[/]" if good else "[red]WRONG[/]"
            table.add_row(story.name, story.expected, ", then ".join(story.seen) or "-", found, verdict)
        self._console.print()
        self._console.print(table)
        window, sweep = self._timing.window, self._timing.sweep_interval
        self._console.print(f"A dead run must be found within {span(window)} (window) + {span(sweep)} (sweep).")
        return all_good

    def _why(self, story: Story) -> None:
        self._console.print(f"\nWhy {story.name} was reaped, as `reprieve explain` and the page say it:")
        for sentence in explain(self._services, story.run_id).sentences[1:]:
            self._console.print(f"  {shown(sentence)}", markup=False, highlight=False)

    def _is_whole(self, story: Story) -> bool:
        """Whether every line that it printed is in its log, once and in order, where lines are counted."""
        if story.lines is None:
            return True
        chunks = self._services.logs.read(story.run_id, 1, limit=100_000)
        printed = b"".join(chunk.data for chunk in chunks).splitlines()
        self.say(story.name, f"{len(printed)} of its {story.lines} lines are in its log")
        return printed == [b"line %d" % number for number in range(1, story.lines + 1)]


def run_demo(*, real_time: bool) -> int:
    """Set everything up, tell the stories, end everything; the exit status."""
    console = terminal()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scale = 1 if real_time else DEMO_SCALE
    timing = Timing.scaled(scale)
    console.print(
        f"Window {span(timing.window)}, refresh {span(timing.refresh_interval)}, sweep {span(timing.sweep_interval)}"
        + ("." if real_time else f": the real timings divided by {scale}. `make demo REAL_TIME=1` takes 8 minutes.")
    )
    console.print("Starting PostgreSQL, Redis, workers and beat …")
    try:
        with _data_folder() as folder:
            started: set[psutil.Process] = set()
            came_out = _tell_on_a_stack(folder, scale, console, started)
            left = _left_over(folder, started)
    except KeyboardInterrupt:
        console.print("Interrupted; everything was ended.")
        return 130
    for process in left:
        console.print(Text(f"Left behind: {shown(process)}", "red"))
    if came_out and not left:
        console.print("[green]All came out as expected, and no process is left.[/]")
        return 0
    return 1


def _tell_on_a_stack(folder: Path, scale: int, console: Console, started: set[psutil.Process]) -> bool:
    """Whether all came out as expected; notes what runs below this process before it ends it."""
    no_servers = {f"{server}_{part}": None for server in SERVERS for part in ("url", *PARTS)}
    settings = load_settings(data_dir=folder, time_scale=scale, **no_servers)
    token = token_of_up(settings)
    with Stack(settings, flower_password="demo", quiet=True) as stack:  # noqa: S106 - for a minute, on loopback
        services = bootstrap.build(stack.settings)
        bootstrap.use(services)
        page = page_address(stack.api_address, token)
        console.print(f"The page: {page} shows the same while it happens.\n", soft_wrap=True)
        try:
            came_out = Demo(services, console).tell()
            _let_look(console, page)
            return came_out
        except ReprieveError as error:
            console.print(Text(shown(error), "red"))
            _show_logs(stack.logs)
            return False
        finally:
            started.update(psutil.Process().children(recursive=True))
            app.pool.force_close_all()
            bootstrap.use(None)


def _let_look(console: Console, page: str) -> None:
    """Leave the page open while a person is at the terminal; for a program, there is nothing to wait for."""
    if not (sys.stdin.isatty() and console.is_terminal):
        return
    console.print(f"\n[bold]The page is still open: {page}[/]  Press Enter to end it all.", soft_wrap=True)
    with suppress(KeyboardInterrupt):
        sys.stdin.readline()


def _show_logs(logs: Path) -> None:
    """The last of what each process wrote, since the folder is about to go."""
    for log in sorted(logs.glob("*.log")):
        say(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-15:], problem=True)


@contextmanager
def _data_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="reprieve-demo-"))
    try:
        yield folder
    finally:
        EmbeddedPostgres(folder / "postgres").remove()
        shutil.rmtree(folder, ignore_errors=True)


def _left_over(folder: Path, started: Collection[psutil.Process]) -> list[str]:
    """Processes that this demo started and that still run.

    They were below it, or bear its folder in their arguments or environment. That of a worker only root can see.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            traces = process.cmdline()
            with suppress(psutil.AccessDenied):
                traces.append(process.environ().get("REPRIEVE_DATA_DIR", ""))
            is_ours = process in started or any(str(folder) in trace for trace in traces)
            if is_ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found
