"""The Celery app and its tasks: thin pipelines over `models`, `adapters` and `stores`.

from workers import cancel_run, enqueue_run

run = enqueue_run("process", {"command": ["make", "report"]}, labels={"team": "data"}, max_runtime=3600)
"""

from workers.app import app
from workers.enqueue import cancel_run, enqueue_run

__all__ = ["app", "cancel_run", "enqueue_run"]
