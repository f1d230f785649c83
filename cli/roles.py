"""The processes of a deployment and the commands that start them, for `reprieve up` and docker-compose.yml alike."""

_WORKER = ("celery", "-A", "workers", "worker", "--without-gossip", "--without-mingle", "--loglevel=INFO")

#: Role by role, the command. Runs have their own workers, since they are long; a sweep must never wait behind one.
ROLES: dict[str, tuple[str, ...]] = {
    "worker-runs": (*_WORKER, "--queues=runs", "--pool=threads", "--concurrency=100", "--hostname=runs@%h"),
    "worker-logs": (*_WORKER, "--queues=logs", "--pool=threads", "--concurrency=2", "--hostname=logs@%h"),
    "worker-archive": (*_WORKER, "--queues=archive", "--pool=threads", "--concurrency=2", "--hostname=archive@%h"),
    "worker-control": (*_WORKER, "--queues=control", "--pool=threads", "--concurrency=2", "--hostname=control@%h"),
    # Beat's default scheduler keeps a file; an interval needs no memory, and a sweep is sent when a worker starts.
    "beat": ("celery", "-A", "workers", "beat", "--scheduler=celery.beat:Scheduler", "--pidfile=", "--loglevel=INFO"),
    "flower": ("reprieve", "flower"),
    "api": ("reprieve", "api"),
}
