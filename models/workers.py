"""Workers of runs as they say of themselves that they are, and as they are shown. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from uuid import UUID

from pydantic import Field

from reprieve.models.records import Record


@dataclass(frozen=True, slots=True)
class Presence:
    """What a worker says of itself with each heartbeat.

    `roles` are the queues that it consumes, `lanes` the patterns of the lanes that it serves (None: all). `places` is
    how many runs may use its host at once, `spool_bytes` what the files of its spools occupy. It is `stopping` from
    when it was asked to end.
    """

    roles: Sequence[str] = ("runs",)
    lanes: Sequence[str] | None = None
    adapters: Sequence[str] = ()
    places: int | None = None
    runs: int = 0
    spool_bytes: int = 0
    stopping: bool = False
    version: str = version("reprieve")


class WorkerRecord(Record):
    """A worker of runs."""

    id: UUID
    name: str = Field(description="What `reprieve drain` takes; a host's name is that of all its workers.")
    host: str
    version: str | None = Field(description="Its release; null of one that did not say so yet, as the following.")
    roles: list[str] | None = Field(description="The queues that it consumes.")
    adapters: list[str] | None = Field(description="What it can run and follow.")
    lanes: list[str] | None = Field(description="The patterns of the lanes that it serves; null for all.")
    since: datetime
    last_seen: datetime = Field(description="Its last heartbeat; there is one every 20 seconds.")
    is_gone: bool = Field(description="Whether it was not seen for so long that others take over what it followed.")
    runs: int | None = Field(description="How many it follows.")
    places: int | None = Field(description="How many may use its host at once.")
    spool_bytes: int | None = Field(description="What the files of its spools occupy.")
    draining: bool = Field(description="Whether it takes nothing new: drained, or asked to stop.")


class DrainRecord(Record):
    """A worker, or all of a host, that takes nothing new until `reprieve undrain`."""

    name: str
    host: str
    since: datetime
