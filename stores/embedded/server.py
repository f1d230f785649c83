"""What the embedded servers have in common: their life from start to removal.

A start goes: take the folder's start lock; stop what a killed parent left running; settle the address; prepare the
data; start the server; wait until it answers. Each step may be repeated after a kill at any moment.
"""

import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from reprieve.stores.embedded.accounts import Account
from reprieve.stores.embedded.address import Address
from reprieve.stores.embedded.errors import EmbeddedServerError
from reprieve.stores.embedded.process import (
    all_serving,
    end,
    from_pid_file,
    last_lines,
    locked,
    parent_of,
    spawn,
    wait_until,
)

#: Seconds until a started server must answer. A start takes 0.1 s; recovery after a kill is the long case.
READY_SECONDS = 30.0
#: Seconds for a clean stop before SIGKILL, and for a killed process to be gone.
STOP_SECONDS = 10.0

ADDRESS_FILE = "server.json"
LOCK_FILE = "start.lock"
LOG_FILE = "server.log"


class EmbeddedServer(ABC):
    """An embedded server with a folder of its own, which holds its data, address, password and log, and nothing else.

    `pid`, `is_running`, `stop`, `kill` and `remove` work on the folder's server, no matter which process started it;
    `start` refuses one whose starter is another live process.
    """

    #: What the server is called in messages, and the names its processes may have.
    title: ClassVar[str]
    programs: ClassVar[frozenset[str]]
    #: The signal for a clean stop that does not wait for clients.
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The remembered URL, password included; raises EmbeddedServerError on a folder that was never started."""
        address = Address.load(self.folder / ADDRESS_FILE)
        if address is None:
            raise EmbeddedServerError(f"{self.title} has no address yet: start it once on {self.folder}")
        return self._url(address)

    @property
    def pid(self) -> int | None:
        """The process id of the server on this folder, None if none runs."""
        server = self._server()
        return None if server is None else server.pid

    def is_running(self) -> bool:
        """Whether the server's process lives; whether it answers is a question for a client."""
        return self._server() is not None

    def start(self) -> None:
        """Start and return once the server answers; nothing happens if this object's server runs already.

        Raises EmbeddedServerError, with the end of the server's log, if it does not answer within 30 seconds, or if
        the folder's server belongs to another live process.
        """
        if self._child is not None and self._child.poll() is None:
            return
        self._make_folder()
        with locked(self.folder / LOCK_FILE):
            self._refuse_strange_folder()
            self._take_over()
            for last_try in (False, False, True):
                address = self._settle_address()
                self._prepare(address)
                try:
                    self._launch(address)
                    break
                except EmbeddedServerError as error:
                    # Somebody took the port between our look and the server's: another one is looked for.
                    if last_try or "address already in use" not in str(error).lower():
                        raise

    def stop(self) -> None:
        """Stop cleanly, or with SIGKILL after 10 seconds; nothing happens if no server runs."""
        server = self._server()
        if server is not None and not end([server], self.stop_signal, STOP_SECONDS):
            self.kill()
        self._collect_child()

    def kill(self) -> None:
        """End the server and all its helper processes with SIGKILL; they are gone when this returns."""
        server = self._server()
        main = [] if server is None else [server]
        # The main process first: after its death nothing is left that could start another helper.
        if not (end(main, signal.SIGKILL, STOP_SECONDS) and self._kill_helpers()):
            raise EmbeddedServerError(f"{self.title} on {self.folder} survived SIGKILL for {STOP_SECONDS:.0f} s")
        self._collect_child()

    def remove(self) -> None:
        """Stop the server and delete its folder with all data, wherever that went. It can be started afresh."""
        self.stop()
        if self.folder.exists():
            self._refuse_strange_folder()
            shutil.rmtree(self.folder)

    @abstractmethod
    def _url(self, address: Address) -> str:
        """The URL for clients."""

    @abstractmethod
    def _data(self) -> Path:
        """The folder in which the server's processes work, which may not exist yet."""

    @abstractmethod
    def _pid_file(self) -> Path:
        """Where the server writes its process id."""

    @abstractmethod
    def _prepare(self, address: Address) -> None:
        """Bring data and configuration into a state from which the server starts."""

    @abstractmethod
    def _command(self, address: Address) -> Sequence[str]:
        """The server's command line, free of secrets: everyone on the machine can read it."""

    @abstractmethod
    def _answers(self, address: Address) -> bool:
        """Whether a client gets in with the password."""

    def _account(self) -> Account:
        return Account()

    def _make_folder(self) -> None:
        """Create the folder for us alone; one that exists keeps its permissions."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _refuse_strange_folder(self) -> None:
        """Guard `remove`: only a folder that was empty at its first start may ever be deleted as a whole."""
        known = (self.folder / ADDRESS_FILE).exists()
        ours = (LOCK_FILE, f".{ADDRESS_FILE}-")  # the second one begins the name of a half-written address
        others = sorted(entry.name for entry in self.folder.iterdir() if not entry.name.startswith(ours))
        if not known and others:
            raise EmbeddedServerError(
                f"{self.folder} holds {others[0]} but no {ADDRESS_FILE} of ours: give a new or an empty folder"
            )

    def _server(self) -> psutil.Process | None:
        child = self._child
        if child is not None and child.poll() is None:
            return psutil.Process(child.pid)
        return from_pid_file(self._pid_file(), self.programs, self._data())

    def _take_over(self) -> None:
        """Stop what runs on our data without a living parent; helpers may outlive even a dead server for a moment.

        A pid file that is left now names no process of ours, but PostgreSQL would refuse to start beside it if by
        chance some other process has that pid.
        """
        server = self._server()
        if server is not None:
            self._refuse_foreign_parent(server)
            self.stop()
        if not self._kill_helpers():
            raise EmbeddedServerError(f"processes left on {self._data()} survive SIGKILL: end them, then start again")
        self._pid_file().unlink(missing_ok=True)

    def _refuse_foreign_parent(self, server: psutil.Process) -> None:
        """An orphan gets a new parent, so a server whose parent is still its starter belongs to a live session."""
        address = Address.load(self.folder / ADDRESS_FILE)
        starter = None if address is None else address.starter_pid
        if starter not in (None, os.getpid()) and parent_of(server) == starter:
            raise EmbeddedServerError(
                f"{self.title} on {self.folder} is in use by process {starter}: end that one, or give another folder"
            )

    def _settle_address(self) -> Address:
        file = self.folder / ADDRESS_FILE
        remembered = Address.load(file)
        address = Address.new() if remembered is None else remembered.for_this_start()
        address.save(file)
        return address

    def _launch(self, address: Address) -> None:
        log = self.folder / LOG_FILE
        if log.exists():  # one earlier log is kept, so that logs stay bounded by two runs
            log.replace(log.with_name(LOG_FILE + ".previous"))
        self._child = spawn(self._command(address), self._data(), log, self._account())
        try:
            self._wait_until_ready(self._child, address)
        except BaseException:  # an interrupt too must leave nothing running
            self.kill()
            raise

    def _wait_until_ready(self, child: "subprocess.Popen[bytes]", address: Address) -> None:
        settled = wait_until(lambda: child.poll() is not None or self._answers(address), READY_SECONDS)
        ended = child.poll()
        if settled and ended is None:
            return
        what = f"did not answer within {READY_SECONDS:.0f} s" if ended is None else f"ended with code {ended}"
        raise EmbeddedServerError(f"{self.title} {what}; the end of its log:\n{last_lines(self.folder / LOG_FILE)}")

    def _kill_helpers(self) -> bool:
        return end(all_serving(self.programs, self._data()), signal.SIGKILL, STOP_SECONDS)

    def _collect_child(self) -> None:
        """Wait for our ended child, so that no zombie remains."""
        if self._child is not None:
            self._child.wait(STOP_SECONDS)
            self._child = None
