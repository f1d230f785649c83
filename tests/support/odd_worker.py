"""A worker that has adapters which do what no adapter should, beside the real ones: a run's config says which."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from reprieve.adapters import registry
from reprieve.models.status import ErrorCode, Probe
from reprieve.models.work import Outcome, Work
from reprieve.workers.app import app as app  # The application that Celery's `-A` looks for.

#: A comma-separated list of the adapters that this worker has not.
WITHOUT = "ODD_WORKER_WITHOUT"


class Strange(BaseException):
    """No `Exception`."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class UnspeakableThread(RuntimeError):
    """`models.faults` looks at the text of a RuntimeError."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


def _raise(error: BaseException) -> Any:
    raise error


def _circular() -> Outcome:
    detail: dict[str, Any] = {}
    detail["itself"] = detail
    return Outcome(detail=detail)


def _deep() -> Outcome:
    detail: dict[str, Any] = {}
    for _ in range(5000):
        detail = {"in": detail}
    return Outcome(detail=detail)


#: What each kind does, and what the error message must say of it.
KINDS: Mapping[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: None, "returned None"),
    "text": (lambda: "succeeded", "returned 'succeeded' (str)"),
    "number": (lambda: 0, "returned 0 (int)"),
    "class": (lambda: Outcome, "returned a value of type type"),
    "unknown code": (lambda: Outcome("no_such_code", "gone"), "the error code 'no_such_code'"),  # type: ignore[arg-type]
    "code of text": (lambda: Outcome("exit_status", "gone"), "the error code 'exit_status'"),  # type: ignore[arg-type]
    "code of a number": (lambda: Outcome(3, "gone"), "the error code 3"),  # type: ignore[arg-type]
    "message of bytes": (lambda: Outcome(ErrorCode.ADAPTER_ERROR, b"gone"), "a value of type bytes"),  # type: ignore[arg-type]
    "detail of text": (lambda: Outcome(detail="exit 3"), "the detail 'exit 3'"),  # type: ignore[arg-type]
    "detail of none": (lambda: Outcome(detail=None), "the detail None"),  # type: ignore[arg-type]
    "circular detail": (_circular, "a detail that cannot become JSON"),
    "deep detail": (_deep, "a detail that cannot become JSON"),
    "unprintable detail": (lambda: Outcome(detail={"is": Unprintable()}), "a detail that cannot become JSON"),
    "enormous number": (lambda: Outcome(detail={"is": 10**5000}), "a detail that cannot become JSON"),
    "100 MB": (lambda: Outcome(detail={"is": "x" * 100_000_000}), "a detail of 100,"),
    "exception": (lambda: _raise(ValueError("odd")), "raised ValueError: odd"),
    "keyboard interrupt": (lambda: _raise(KeyboardInterrupt()), "raised KeyboardInterrupt"),
    "system exit": (lambda: _raise(SystemExit(3)), "raised SystemExit: 3"),
    "generator exit": (lambda: _raise(GeneratorExit()), "raised GeneratorExit"),
    "no exception": (lambda: _raise(Strange("odd")), "Strange: odd"),
    "unspeakable": (lambda: _raise(Unspeakable()), "Unspeakable"),
    "unspeakable thread": (lambda: _raise(UnspeakableThread()), "UnspeakableThread"),
}


def _fault(number: int) -> Callable[[], Any]:
    return lambda: _raise(OSError(number, os.strerror(number)))


#: Trouble that is the worker's own.
TROUBLES: Mapping[str, Callable[[], Any]] = {
    **{
        name: _fault(getattr(errno, name))
        for name in ("EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT", "EIO", "ESTALE", "EAGAIN")
    },
    "memory": lambda: _raise(MemoryError()),
    "threads": lambda: _raise(RuntimeError("can't start new thread")),
    "connection": lambda: _raise(ConnectionResetError("gone")),
}


class OddConfig(BaseModel):
    what: str
    times: int = 1_000_000
    """How often trouble comes, before all is well."""
    prints: bool = False


class OddInside:
    type = "odd-inside"
    has_out_of_process_liveness = False
    config_model = OddConfig

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self._seen: dict[Any, int] = {}
        self._lock = threading.Lock()

    def execute(self, run: Work, context: Any) -> Any:
        return self._act(run, context)

    def _act(self, run: Work, context: Any) -> Any:
        config = OddConfig.model_validate(run.config)
        if config.prints:
            context.on_log("stdout", b"something\n", "1")
        if config.what == "waits":
            context.wait(600)
            return Outcome.failed("Stopped.")
        if config.what in KINDS:
            return KINDS[config.what][0]()
        with self._lock:
            times = self._seen[run.run_id] = self._seen.get(run.run_id, 0) + 1
        return TROUBLES[config.what]() if times <= config.times else Outcome()

    def terminate(self, handle: dict[str, Any]) -> None: ...


class OddOutside(OddInside):
    """Has work elsewhere, which it records before anything else."""

    type = "odd-outside"
    has_out_of_process_liveness = True

    def execute(self, run: Work, context: Any) -> Any:
        context.on_dispatch({})
        return self._act(run, context)

    def attach(self, run: Work, handle: dict[str, Any], context: Any) -> Any:
        return self._act(run, context)

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        return [Probe.ALIVE for _ in handles]


class OddLoop(OddInside):
    """Is followed without a thread. One that `blocks` never gives its event loop back, one that `lingers` no thread."""

    type = "odd-loop"
    own_limit = None

    async def execute(self, run: Work, context: Any) -> Any:
        if run.config["what"] == "lingers":
            await asyncio.to_thread(self._linger)
        if run.config["what"] == "blocks":
            threading.Event().wait()
        return self._act(run, context)

    def _linger(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "lingering").touch()
        threading.Event().wait()


class Unbuildable(OddInside):
    """Installed, and broken: it cannot be built where this worker is told so."""

    type = "unbuildable"

    def __init__(self, folder: Path, host: str) -> None:
        super().__init__(folder, host)
        if "ODD_WORKER_BUILDS" not in os.environ:
            raise ValueError("a setting of the adapter is missing")

    def execute(self, run: Work, context: Any) -> Any:
        return Outcome()


_real = registry.adapter_classes


@cache
def _odd_too() -> Mapping[str, Any]:
    odd = {one.type: one for one in (OddInside, OddOutside, OddLoop, Unbuildable)}
    without = os.environ.get(WITHOUT, "").split(",")
    return {name: one for name, one in ({**_real(), **odd}).items() if name not in without}


if os.environ.get("ODD_WORKER"):
    registry.adapter_classes = _odd_too  # type: ignore[assignment]
