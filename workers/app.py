"""The Celery application: queues, routes, serialisation, and how long to wait for a broker.

Each value that differs from Celery's default has its reason beside it.
"""

import os
from typing import Any

from celery import Celery, Task
from celery.loaders.app import AppLoader
from celery.local import PromiseProxy
from celery.signals import after_setup_logger, after_setup_task_logger, beat_init, heartbeat_sent, worker_init
from celery.worker.request import Request
from kombu.entity import Exchange, Queue

from reprieve.beat_schedule import beat_schedule
from reprieve.workers import broker, broker_address, current, journal, pulse
from reprieve.workers.discretion import be_discreet
from reprieve.workers.secrecy import conceal

QUEUES = ("runs", "logs", "control", "archive")


def configuration() -> dict[str, Any]:
    """Celery's settings for this process; asked for when the app is first used, not when it is imported."""
    settings = current.settings()
    return {
        **broker_address.configuration(settings.require_broker_url()),
        "imports": (
            "reprieve.workers.announcing",
            "reprieve.workers.execute",
            "reprieve.workers.ingest",
            "reprieve.workers.closing",
            "reprieve.workers.retention",
            "reprieve.workers.sweep",
            "reprieve.workers.lifecycle",
        ),
        "task_queues": [_queue(name) for name in QUEUES],
        "task_default_queue": "control",
        "task_routes": {
            "runs.*": {"queue": "runs"},
            "logs.ingest": {"queue": "logs"},
            # The canary takes the way of the output, or it would say nothing about it.
            "logs.echo": {"queue": "logs"},
            # Archives are long work: neither output nor a sweep may wait behind one.
            "logs.*": {"queue": "archive"},
            "retention.*": {"queue": "archive"},
            "reaper.*": {"queue": "control"},
        },
        "beat_schedule": beat_schedule(settings.timing),
        "beat_max_loop_interval": pulse.BEAT_TURN,
        # Pickle would let anyone who can reach the broker run code.
        "accept_content": ["json", "msgpack"],
        "task_serializer": "json",
        # Rows are the results. None is kept, so none piles up.
        "task_ignore_result": True,
        "result_backend": None,
        # A run's message is worth nothing once its row is claimed; take no more than can be worked on.
        "worker_prefetch_multiplier": 1,
        # Flower relies on events, and messages are few.
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "worker_hijack_root_logger": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # A broker that is down comes back eventually. Celery's 100 tries last under an hour; then it would end a
        # worker with the children of its runs, or beat.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_consumer": "reprieve.workers.consumer:Consumer",
        # RabbitMQ closes the channel of a worker that has held a message for half an hour, as one does whose threads
        # are all busy. That is a lost connection, and not the end of the worker and of the children of all its runs.
        "broker_channel_error_retry": True,
        # A publisher need not wait for a broker that is down: the row is written.
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.2},
        "timezone": "UTC",
    }


def _queue(name: str) -> Queue:
    """A message about a run is a hint, settled as it comes: the broker need not remember who has it."""
    return Queue(name, Exchange(name), routing_key=name, no_ack=name == "runs")


class DiscreetRequest(Request):  # type: ignore[misc]
    """A request that shows the short form of its arguments wherever a person may look.

    Celery's `inspect`, and Flower's page of a worker with it, give the real arguments of active and reserved tasks,
    whatever `argsrepr` says; for a log message, these are the log.
    """

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - always safe
        shown: dict[str, Any] = super().info(safe=True)
        return shown


class DiscreetTask(Task):  # type: ignore[misc]
    """The base of all tasks here."""

    Request = DiscreetRequest


class Loader(AppLoader):  # type: ignore[misc]
    """What a process becomes by being our worker or our beat; whoever only imports this module becomes nothing.

    Celery's signals are of all apps of a process, and so are kombu's transports: a service that is a Celery app itself,
    and has imported ours to ask for runs, must not notice.
    """

    def on_worker_init(self) -> None:
        broker.install()
        worker_init.connect(be_discreet)
        worker_init.connect(conceal)
        beat_init.connect(conceal)
        heartbeat_sent.connect(pulse.pulse)
        beat_init.connect(pulse.be_due)
        after_setup_logger.connect(journal.keep)
        after_setup_task_logger.connect(journal.keep)


# Nobody's current app, and without Celery's way with Django: in a service, those are the service's own.
app = Celery("reprieve", task_cls=DiscreetTask, loader=Loader, set_as_current=False, fixups=())
# A promise, so that importing this reads no settings; one that fails (settings not there yet) is asked again.
app.config_from_object(PromiseProxy(configuration))
# Celery sees to its own forks; a service has others.
os.register_at_fork(after_in_child=app._after_fork)
