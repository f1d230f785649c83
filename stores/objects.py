"""The object store in which closed logs lie: what may be its address, and every call to it with a deadline.

Three answers beside success: it *refuses* or does not answer (`LogUnavailable`: try again, or do what the sentence
says), an object *is not there*, or is not what was written (`ObjectLost`: no second try changes that).
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from reprieve.models.errors import LogUnavailable, ObjectLost
from reprieve.stores.patience import Patience

T = TypeVar("T")

#: Seconds that a reader waits for an object, or a part of one of some megabytes: somebody looks at a screen.
READ_SECONDS = 15.0
#: Seconds that a step of writing may take (some megabytes), and a list or a removal. Nobody waits; longer than the
#: client's own limits (30 s for a request, and one more try), whose errors say more.
WRITE_SECONDS = 60.0
#: Seconds that each step of a probe may take.
PROBE_SECONDS = 10.0
#: Bytes a second that a disk is given to take in what was written, beyond that.
SLOWEST_DISK = 5 * 1024 * 1024
#: Calls that one process has under way at once.
AT_ONCE = 16
#: The client tries again once, and not after so many seconds: its defaults add up to minutes.
RETRIES: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}
#: Bytes that go to the store at once, and how often beside each other: all of them within the time of one step.
PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 2

#: Characters that are shown of a store's own error message.
LONGEST_CAUSE = 300

#: How the client reports an error response, and what S3-compatible stores put in it.
_STATUS = re.compile(r"status code: (\d{3}[\w ]*)")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")

#: Whatever a call may say beside an answer.
REFUSALS = (BaseError, OSError, ValueError)

EXAMPLES = "give s3://bucket/prefix, for example, or file:///a/shared/folder"


def check_address(url: str) -> None:
    """Raise `ValueError` with a sentence where this cannot be the address of an object store; opens nothing."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"is no address ({error}); {EXAMPLES}") from None
    for is_wrong, message in (
        (not parts.scheme, f"is no address of an object store; {EXAMPLES}"),
        (
            parts.password is not None,
            "holds a password; credentials go where the store's own tools look (AWS_… for S3)",
        ),
        (
            parts.query or parts.fragment,
            "has more than a place in it, of which nothing would be used; leave out ? and #",
        ),
        (parts.scheme == "memory", f"would keep the logs in the memory of one process; {EXAMPLES}"),
        (parts.scheme != "file" and not parts.netloc, f"names no bucket; {EXAMPLES}"),
    ):
        if is_wrong:
            raise ValueError(message)
    if parts.scheme == "file":
        _check_folder(url, parts.netloc)
    else:
        _check_store(url)


def _check_store(url: str) -> None:
    try:
        from_url(url)
    except REFUSALS as error:
        message = f"is no address of an object store that is known here ({cause_of(error)}); {EXAMPLES}"
        raise ValueError(message) from None


def _check_folder(url: str, host: str) -> None:
    folder = folder_of(url)
    if host or folder is None or folder == Path(folder.anchor) or "\0" in str(folder):
        raise ValueError("names no folder from the root on; give file:///a/shared/folder, with three slashes")
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # A name that is too long, or a folder that this user may not search.
        raise ValueError(f"is no folder that can be used ({error.strerror}); name another one") from None
    if not nearest.is_dir():
        raise ValueError(f"is no folder that can be made, since {nearest} is none; name another one")
    if nearest != folder and not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"is no folder that this user can make in {nearest}; make it, or name another one")


def folder_of(url: str) -> Path | None:
    """The folder that an address names; None for a store elsewhere."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" and parts.path.startswith("/") else None


class _NoAnswer(LogUnavailable):
    """Raised when nothing was said within the deadline: there is no use in asking once more."""


class Objects:
    """One object store. Opens nothing until it is used; each method keeps a deadline and raises `LogUnavailable`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._patience = Patience(AT_ONCE)

    @cached_property
    def store(self) -> ObjectStore:
        """The store itself; a folder is made if it is not there."""
        folder = folder_of(self.url)
        if folder is None:
            return from_url(self.url, retry_config=RETRIES)
        # For nobody else's eyes; obstore would make it readable by everyone.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return from_url(self.url)

    def open(self) -> None:
        """Make the folder, where it is one."""
        self._call(WRITE_SECONDS, "cannot be opened", lambda: self.store)

    @contextmanager
    def writing(self, key: str) -> Iterator[Callable[[bytes], None]]:
        """What writes an object piece by piece; it is there, to outlive a power cut, when the block has ended."""
        size = 0

        def write(data: bytes) -> None:
            nonlocal size
            size += len(data)
            self._call(WRITE_SECONDS, refused, lambda: writer.write(data))

        refused = f"did not take {key}"
        writer = self._call(
            WRITE_SECONDS,
            refused,
            lambda: obstore.open_writer(self.store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE),
        )
        yield write
        self._call(WRITE_SECONDS, refused, writer.close)
        self._call(WRITE_SECONDS + size / SLOWEST_DISK, refused, lambda: self._make_durable(key))

    def _make_durable(self, key: str) -> None:
        """See that an object outlives a power cut before anything is dropped for its sake.

        Object stores answer once it does. A folder does not: obstore leaves the file in the page cache (object_store
        #661), and what led to it (the entries of new folders) as well.
        """
        if not isinstance(self.store, LocalStore):
            return
        root = Path(str(self.store.prefix))
        path = root / key
        for entry in (path, *path.parents[: len(Path(key).parts)]):
            descriptor = os.open(entry, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def part(self, key: str, offset: int, size: int) -> bytes:
        """So many bytes of an object; raises `ObjectLost` as well, where it is not there or too short."""

        def read() -> bytes:
            return bytes(obstore.get_range(self._there, key, start=offset, length=size))

        try:
            data = self._call(READ_SECONDS, f"does not give {key}", read)
        except (ObjectLost, _NoAnswer):
            raise
        except LogUnavailable:
            # A store says in words of its own that a part lies beyond the end.
            if self.size(key) >= offset + size:
                raise
            data = b""
        if len(data) != size:
            raise ObjectLost(f"{key} in the log archive {self.url} is shorter than it was.")
        return data

    def size(self, key: str) -> int:
        """Bytes of an object; raises `ObjectLost` where it is not there."""
        return int(self._call(READ_SECONDS, f"does not give {key}", lambda: obstore.head(self._there, key)["size"]))

    @property
    def _there(self) -> ObjectStore:
        """The store as a reader finds it: a folder that is not there is not its to make, and not an empty archive."""
        folder = folder_of(self.url)
        if folder is not None and not folder.is_dir():
            raise NotADirectoryError(f"the folder {folder} is not there. Is it the one that the workers share?")
        return self.store

    def below(self, folder: str) -> list[str]:
        """The names of the objects in a folder."""
        return self._call(
            WRITE_SECONDS,
            "cannot be listed",
            lambda: [str(found["path"]) for page in obstore.list(self.store, folder) for found in page],
        )

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is removed."""
        try:
            self._call(WRITE_SECONDS, f"did not remove {key}", lambda: obstore.delete(self.store, key))
        except ObjectLost:
            return

    def probe(self) -> None:
        """Write, read, list and remove an object; the error says which of these was refused. Leaves nothing behind."""
        key, content = f"doctor-{uuid4().hex}", b"reprieve doctor\n"
        self._call(PROBE_SECONDS, "cannot be opened", lambda: self._there)

        def read() -> None:
            if bytes(obstore.get(self._there, key).bytes()) != content:
                raise ValueError("it gave back something else than was written")

        steps: list[tuple[str, Callable[[], object]]] = [
            ("cannot be written to", lambda: obstore.put(self._there, key, content)),
            ("cannot be read", read),
            ("cannot be listed", lambda: list(obstore.list(self._there, key))),
            (f"cannot remove objects ({key} may be left)", lambda: obstore.delete(self._there, key)),
        ]
        refusals = []
        for refused, step in steps:
            try:
                self._call(PROBE_SECONDS, refused, step)
            except LogUnavailable as error:
                refusals.append(str(error))
        if refusals:
            raise LogUnavailable(" ".join(refusals))

    def _call(self, seconds: float, refused: str, work: Callable[[], T]) -> T:
        try:
            return self._patience.call(seconds, work)
        except TimeoutError:
            message = f"it has not answered for {seconds:.0f} s. Does this host reach it?"
            raise _NoAnswer(f"The log archive {self.url} {refused}: {message}") from None
        except FileNotFoundError as error:
            if "NoSuchBucket" not in str(error):
                raise ObjectLost(f"The log archive {self.url} {refused}: {cause_of(error)}") from None
            message = "there is no such bucket. Make it, or name another one."
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            message = f"{cause_of(error)}. May its user write, read, list and remove there?"
        except REFUSALS as error:
            message = cause_of(error)
        raise LogUnavailable(f"The log archive {self.url} {refused}: {message}") from None


def cause_of(error: BaseException) -> str:
    """What a store answered, if it did: its status and its own word for it. Else an error's first line, or its kind."""
    if status := _STATUS.search(str(error)):
        code = _CODE.search(str(error))
        return f"it answered {status[1].strip()}" + (f" ({code[1]})" if code else "")
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:LONGEST_CAUSE]
