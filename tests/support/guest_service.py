"""A service with a Celery app of its own, in a process that also asks for runs. Its own broker is at GUEST_BROKER."""

import os
from pathlib import Path

from celery import Celery, shared_task

app = Celery("service", broker=os.environ["GUEST_BROKER"])
app.conf.task_default_queue = "mail"

from reprieve import enqueue_run  # noqa: E402 - after the service's own app, as its imports are


@shared_task(name="service.send_mail")
def send_mail(path: str) -> None:
    """Say that it was here, and ask for a run that says so as well."""
    Path(path).write_text("mail\n")
    enqueue_run("process", {"command": ["sh", "-c", f"echo run >> {path}"]})
