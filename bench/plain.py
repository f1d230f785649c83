"""A plain Celery worker that runs commands, as a service has one that knows of nothing else.

`celery -A bench.plain worker --pool=threads`: its tasks run a command and keep nothing of it.
"""

import os
import subprocess

from celery import Celery

app = Celery("plain", broker=os.environ["REPRIEVE_REDIS_URL"])
app.conf.task_default_queue = "plain"
app.conf.worker_send_task_events = True
app.conf.broker_connection_retry_on_startup = True
app.conf.task_send_sent_event = True


@app.task(name="run_command", ignore_result=True)  # type: ignore[untyped-decorator]
def run_command(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)
