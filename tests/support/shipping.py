"""Shippers of the test process itself."""

from functools import partial

from reprieve.adapters.shipper import LogShipper
from reprieve.workers.bootstrap import Services
from reprieve.workers.ingest import ingest

_begun: list[LogShipper] = []


def direct_shipper(services: Services) -> LogShipper:
    """A shipper whose batches are ingested at once, by this process; ended with the services of the test."""
    _begun.append(LogShipper(services.settings.spool_dir, partial(ingest, services), services.logs.stored))
    return _begun[-1]


def end_shippers() -> None:
    """One that went on would ship to the tables of the tests that follow."""
    while _begun:
        _begun.pop().close(timeout=0)
