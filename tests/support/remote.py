"""Runs whose work reports from outside, and the chunks that it sends."""

from base64 import b64encode
from typing import Any

from reprieve.models.work import Work
from reprieve.workers.bootstrap import Services
from tests.support.rows import new_run, record_handle, running


def remote(services: Services, **changes: Any) -> Work:
    """A remote run that a worker, which does not exist, holds the place of."""
    work = running(services, adapter="remote", config={}, **changes)
    record_handle(services, work.fence, None, {})
    return work


def remote_with_token(services: Services, **changes: Any) -> tuple[Work, str]:
    work = remote(services, **changes)
    return work, services.tokens.issue(work.run_id)


def waiting_with_token(services: Services) -> tuple[Any, str]:
    """One that no worker has claimed yet."""
    run = new_run(services, adapter="remote", config={})
    return run.id, services.tokens.issue(run.id)


def lines(*texts: bytes, stream: str = "stdout") -> list[dict[str, Any]]:
    return [{"stream": stream, "data": b64encode(text).decode()} for text in texts]
