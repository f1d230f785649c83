"""A stand-in for Kubernetes' API server: the real paths and JSON, a cluster's life as scripted, and any misbehaviour.

`FakeCluster` is what the test acts on: `start`, `write`, `finish` and the like are the life of a Pod. With `runs` it
lives by itself: a Pod's command is run on this host, and what it prints is its log. `misbehave` makes chosen requests
fail in chosen ways, and `away` has nobody listen at all. Its clock can be put forward (`pass_time`): grace periods and
the time that a finished Job is kept go by it.

Each change of a Job or a Pod has a version of its own, as `resourceVersion`, and stays in a history, from which a
watch is served: from any version that is still in it (`forget_history`), else it is 410. A list is of one version, that
of its first page. As with the real one, a watch sends bookmarks, also a moment before it ends by `timeoutSeconds`.

The log is kept and given as a kubelet does it: entries with a time each, parts of long lines as entries of their own,
a time at the beginning of a line only, and `sinceTime` compared with the time of each entry.
"""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

Json = dict[str, Any]

#: An image of this name cannot be pulled, here and anywhere.
NO_SUCH_IMAGE = "registry.invalid/no-such-image:1"
#: A container runtime writes longer lines down in parts of this size.
PART_SIZE = 16 * 1024
_ROUTE = re.compile(
    r"/(?P<group>apis/batch/v1|api/v1)/namespaces/(?P<namespace>[^/]+)/(?P<kind>jobs|pods|events)"
    r"(?:/(?P<name>[^/]+)(?P<log>/log)?(?P<eviction>/eviction)?)?"
)
_KINDS = {"jobs": "Job", "pods": "Pod", "events": "Event"}


def rfc3339(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def now(later: float = 0.0) -> str:
    """Now, or so many seconds later."""
    return f"{datetime.now(UTC) + timedelta(seconds=later):%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True)
class Entry:
    """One entry of a log file; without a line end it is a part of a line."""

    at: int
    text: bytes


@dataclass
class Log:
    """The log of one container: entries since its start, of which the file has those from `first` on."""

    entries: list[Entry] = field(default_factory=list)
    first: int = 0
    ended: bool = False


@dataclass
class Fault:
    """What happens to the next requests that it matches. The first that applies is used up by one."""

    method: str
    part: str
    times: float
    status: int | None = None
    reason: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent in place of the API's own form."""
    how: str = "answer"
    """`answer` with the status; `hang`; `reset` before doing anything; `lose` the answer after doing it; `truncate`
    the answer; `cut` a log or a watch after `after` bytes, with an error, or `end` it there as if it were over;
    `freeze` it there: the connection stays, and nothing comes of it any more."""
    after: int = 0


class FakeCluster:
    """The state, and the API server over it. A context manager; `url` is where it listens."""

    def __init__(self, *, runs: bool = False, max_page: int = 500) -> None:
        self.runs = runs
        self.max_page = max_page
        self.namespaces = {"default", "other"}
        self.visible: set[str] | None = {"default", "other"}
        """The namespaces in which our Role is bound; None with a ClusterRole, which sees all."""
        self.creates_pods = True
        self.holds_deletions = False
        self.grace = 0.0
        """Seconds that a deleted Pod may still run."""
        self.max_log: int | None = None
        """Bytes of a log file, at most, before it is rotated; None for no limit. (`containerLogMaxSize`.)"""
        self.passed = 0.0
        """Seconds by which its clock is ahead."""
        self.is_away = False
        self.things: dict[tuple[str, str, str], Json] = {}
        """By kind, namespace and name."""
        self.logs: dict[str, Log] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.deleted: list[str] = []
        self.complaints: list[str] = []
        """Requests that no client of a real API server would make."""
        self.changed = threading.Condition(threading.RLock())
        self.closing = False
        self.token = "a-token"
        self.version = 100
        """Of the last change."""
        self.bookmark_interval = 0.1
        """Seconds; 0 for a server that sends none."""
        self.poll_interval = 0.02
        """Seconds between two looks of a watch whether a test has changed something by hand."""
        self.life = 1
        """How often it has come back."""
        self.cuts = 0
        """How often all watches were cut off."""
        self.hides: set[str] = set()
        """Events of these kinds (`DELETED`, say) are kept from every watch."""
        self.watches: dict[str, int] = {"jobs": 0, "pods": 0}
        """How many are open."""
        self._history: list[tuple[int, str, str, Json, Json | None]] = []
        #: The version before the first that the history has.
        self._forgotten = 100
        #: What the last version of each was, as it was told, and the lists that are being read by their version.
        self._told: dict[tuple[str, str, str], Json] = {}
        self.lists: dict[str, list[Json]] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._listen(0)

    def _listen(self, port: int) -> None:
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.cluster = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "FakeCluster":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for process in self._processes:
            _end(process)
        if not self.is_away:
            self._close()
        assert not self.complaints

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def go_away(self) -> None:
        """Connections are refused from now on, and those that are open are cut at the next request."""
        self.is_away = True
        self.life += 1
        self._close()

    def come_back(self) -> None:
        """At the same address."""
        self._listen(self._server.server_port)
        self.is_away = False
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def kubeconfig(self, folder: Path) -> Path:
        """A file for `KUBECONFIG`."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": "a-token"}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config))
        return path

    # -- misbehaviour

    def misbehave(self, method: str, part: str, *, times: float = 1, **how: Any) -> Fault:
        """The next `times` requests of this method whose path, with its query, holds `part` go wrong."""
        fault = Fault(method, part, times, **how)
        with self.changed:
            self.faults.append(fault)
        return fault

    def behave(self) -> None:
        with self.changed:
            self.faults.clear()
            self.changed.notify_all()

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.changed:
            for fault in self.faults:
                if fault.method == method and fault.part in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    # -- versions and watches

    def record(self) -> None:
        """Give what has changed since the last time a version, and tell the watches of it.

        By comparison, so that a test may change a Job or a Pod as it likes.
        """
        with self.changed:
            for key in {*self._told, *self.things}:
                self._record(key)

    def _record(self, key: tuple[str, str, str]) -> None:
        thing, before = self.things.get(key), self._told.get(key)
        if before is not None and (thing is None or thing["metadata"]["uid"] != before["metadata"]["uid"]):
            del self._told[key]
            self._tell(key, "DELETED", before, before)
            before = None
        if thing is None:
            return
        now_ = {name: value for name, value in thing.items() if not name.startswith("_")}
        if before is None or _unversioned(before) != _unversioned(now_):
            self._told[key] = self._tell(key, "ADDED" if before is None else "MODIFIED", now_, before)
            thing["metadata"]["resourceVersion"] = self._told[key]["metadata"]["resourceVersion"]

    def has_changed(self, thing: Json) -> None:
        """At once, and not when somebody asks: what comes next is a change of its own."""
        kind = "pods" if "ownerReferences" in thing["metadata"] else "jobs"
        with self.changed:
            self._record((kind, thing["metadata"]["namespace"], thing["metadata"]["name"]))

    def _tell(self, key: tuple[str, str, str], event: str, thing: Json, before: Json | None) -> Json:
        self.version += 1
        told: Json = json.loads(json.dumps(thing))
        told["metadata"]["resourceVersion"] = str(self.version)
        if event not in self.hides:
            self._history.append((self.version, f"{key[0]}/{key[1]}", event, told, before))
        self.changed.notify_all()
        return told

    def forget_history(self) -> None:
        """As after five minutes, or when the API server starts again: older versions are 410."""
        with self.changed:
            self.record()
            self._history.clear()
            self._forgotten = self.version

    def send(self, event: str, thing: Json) -> None:
        """An event that is told to the watches as it is, whatever has happened."""
        with self.changed:
            self.record()
            where = f"{'pods' if 'ownerReferences' in thing['metadata'] else 'jobs'}/{thing['metadata']['namespace']}"
            self._history.append((self.version, where, event, json.loads(json.dumps(thing)), None))
            self.changed.notify_all()

    def since(self, position: int, where: str, query: dict[str, str]) -> tuple[int, list[Json]]:
        """What a watch is told of a selection, from a position of the history on; and the next position."""
        with self.changed:
            new = self._history[position:]
            told = []
            for _, place, event, thing, before in new:
                if place != where:
                    continue
                is_in, was_in = _selected(thing, query), before is not None and _selected(before, query)
                if is_in:
                    event = "ADDED" if event == "MODIFIED" and not was_in else event
                    told.append({"type": event, "object": thing})
                elif was_in:
                    told.append({"type": "DELETED", "object": thing})
            return position + len(new), told

    def position_of(self, version: str) -> int:
        """Where a watch goes on from this version. Raises `_Problem` when that is not known any more."""
        with self.changed:
            if not version.isdecimal() or int(version) < self._forgotten:
                raise _Problem(410, "Expired", f"too old resource version: {version} ({self._forgotten})")
            if int(version) > self.version:
                raise _Problem(504, "Timeout", f"Too large resource version: {version}, current: {self.version}")
            return sum(1 for one in self._history if one[0] <= int(version))

    def cut_watches(self) -> None:
        """Break their connections off; they may be resumed."""
        with self.changed:
            self.cuts += 1
            self.changed.notify_all()

    def restart(self) -> None:
        """Begin to count versions anew, as after a restore of etcd, and cut every connection."""
        with self.changed:
            self.go_away()
            self._history.clear()
            self.version = self._forgotten = 10
            self._told.clear()
            self.come_back()

    # -- the life of a cluster

    def of_kind(self, kind: str) -> list[Json]:
        with self.changed:
            return [thing for (one, _, _), thing in self.things.items() if one == kind]

    def only_pod(self) -> Json:
        (pod,) = self.of_kind("pods")
        return pod

    def create_job(self, namespace: str, job: Json) -> Json:
        with self.changed:
            metadata = job["metadata"]
            metadata |= {"namespace": namespace, "uid": str(uuid4()), "creationTimestamp": now()}
            job.setdefault("status", {})
            self.things["jobs", namespace, metadata["name"]] = job
            self.has_changed(job)
            if self.creates_pods:
                self.create_pod(job)
            return job

    def create_pod(self, job: Json) -> Json:
        """The Pod of a Job, pending."""
        template, owner = job["spec"]["template"], job["metadata"]
        labels = template["metadata"].get("labels", {}) | {"job-name": owner["name"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{owner['name']}-{uuid4().hex[:5]}",
                "namespace": owner["namespace"],
                "uid": str(uuid4()),
                "creationTimestamp": rfc3339(time.time_ns()),
                "labels": labels,
                "ownerReferences": [{"kind": "Job", "name": owner["name"], "uid": owner["uid"]}],
            },
            "spec": json.loads(json.dumps(template["spec"])),
            "status": {"phase": "Pending"},
        }
        with self.changed:
            self.things["pods", owner["namespace"], pod["metadata"]["name"]] = pod
            self.logs[pod["metadata"]["uid"]] = Log()
            self.has_changed(pod)
        if self.runs:
            self._run(pod)
        return pod

    def wait(self, pod: Json, reason: str, message: str = "") -> None:
        """Its container waits, for a reason."""
        self._state(pod, {"waiting": {"reason": reason, "message": message}}, "Pending")

    def start(self, pod: Json, node: str = "node-1") -> None:
        with self.changed:
            pod["spec"]["nodeName"] = node
            self._state(pod, {"running": {"startedAt": now()}}, "Running")

    def write(self, pod: Json, text: bytes, at: int | None = None) -> None:
        """What its container prints, as the runtime writes it down: lines, and parts of long ones."""
        entries = []
        # containerd drops a carriage return before a line end: `readLine` of its package cri/io.
        for line in text.replace(b"\r\n", b"\n").splitlines(keepends=True):
            entries += [line[start : start + PART_SIZE] for start in range(0, len(line), PART_SIZE)]
        with self.changed:
            log = self.logs[pod["metadata"]["uid"]]
            if self.max_log is not None and sum(len(entry.text) for entry in log.entries[log.first :]) > self.max_log:
                self.rotate(pod)
            log.entries += [Entry(time.time_ns() if at is None else at, entry) for entry in entries]
            self.changed.notify_all()

    def rotate(self, pod: Json) -> None:
        """What was printed until now is in another file, which the API does not give."""
        with self.changed:
            log = self.logs[pod["metadata"]["uid"]]
            log.first = len(log.entries)

    def finish(
        self,
        pod: Json,
        exit_code: int = 0,
        reason: str | None = None,
        helpers: Mapping[str, int] | None = None,
        **status: Any,
    ) -> None:
        """Its containers end, and the Job with them. `helpers` are those beside the main one; `status` is the Pod's."""
        is_well = exit_code == 0 and not any((helpers or {}).values())
        with self.changed:
            pod["status"] |= status
            for name, code in (helpers or {}).items():
                self._state(pod, {"terminated": _ended(code)}, "Running", name)
            self._state(pod, {"terminated": _ended(exit_code, reason)}, "Succeeded" if is_well else "Failed")
            self.logs[pod["metadata"]["uid"]].ended = True
            self.changed.notify_all()
            if is_well:
                self.end_job(pod, "Complete", "CompletionsReached")
            else:
                self.end_job(pod, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def end_job(self, pod: Json, kind: str, reason: str, message: str = "") -> None:
        """The Job of a Pod gets a condition that ends it."""
        metadata = pod["metadata"]
        with self.changed:
            job = self.things.get(("jobs", metadata["namespace"], metadata["labels"]["job-name"]))
            if job is not None:
                condition = {"type": kind, "status": "True", "reason": reason, "message": message}
                job["status"].setdefault("conditions", []).append(condition)
                if kind in ("Complete", "Failed"):
                    job["_finished_at"] = self._time()
                self.has_changed(job)

    def fail_soon(self, pod: Json, reason: str = "BackoffLimitExceeded", message: str = "") -> None:
        """As the Job controller since 1.31: `Failed` comes once the Pods have ended."""
        self.end_job(pod, "FailureTarget", reason, message)

    def evict(self, pod: Json, message: str = "Eviction API: evicting") -> None:
        """By the eviction API: it has its grace period, and then is gone."""
        self.disrupt(pod, "EvictionByEvictionAPI", message)

    def taint(self, node: str) -> None:
        """NoExecute: all Pods of this node are deleted, which do not tolerate it."""
        for pod in [one for one in self.of_kind("pods") if one["spec"].get("nodeName") == node]:
            self.disrupt(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")

    def disrupt(self, pod: Json, reason: str, message: str) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
        with self.changed:
            pod["status"].setdefault("conditions", []).append(condition | {"lastTransitionTime": now()})
            self.has_changed(pod)
            self.delete(pod)

    def pass_time(self, seconds: float) -> None:
        """Put the clock forward: what has waited for that happens."""
        with self.changed:
            self.passed += seconds
            self.collect()

    def collect(self) -> None:
        """What the cluster does as time passes: Pods end with their grace, Jobs fail, finished ones are deleted."""
        with self.changed:
            for pod in self.of_kind("pods"):
                if "_gone_at" in pod and self._time() >= pod["_gone_at"] and not self.holds_deletions:
                    self._end_pod(pod)
            for job in self.of_kind("jobs"):
                kept = job["spec"].get("ttlSecondsAfterFinished")
                if kept is not None and "_finished_at" in job and self._time() >= job["_finished_at"] + kept:
                    self.delete(job)

    def _time(self) -> float:
        return time.monotonic() + self.passed

    def _end_pod(self, pod: Json) -> None:
        """A deleted Pod is gone; its Job, if it has not ended, fails."""
        self._end_processes(pod)
        self.remove(pod)
        metadata = pod["metadata"]
        job = self.things.get(("jobs", metadata["namespace"], metadata["labels"]["job-name"]))
        if job is not None and "_finished_at" not in job:
            self.end_job(pod, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def tell(self, job: Json, reason: str, message: str) -> None:
        """An event about a Job."""
        namespace, name = job["metadata"]["namespace"], f"event-{uuid4().hex[:8]}"
        event = {
            "metadata": {"name": name, "namespace": namespace, "uid": str(uuid4())},
            "involvedObject": {"uid": job["metadata"]["uid"]},
            "reason": reason,
            "message": message,
        }
        with self.changed:
            self.things["events", namespace, name] = event

    def remove(self, thing: Json) -> None:
        """At once, and nothing else."""
        with self.changed:
            for key in [key for key, value in self.things.items() if value is thing]:
                del self.things[key]
                self._record(key)
            log = self.logs.get(thing["metadata"]["uid"])
            if log is not None:
                log.ended = True
            self.changed.notify_all()

    def delete(self, thing: Json) -> None:
        """As the API does it, with what belongs to it; held back while `holds_deletions`."""
        with self.changed:
            if "deletionTimestamp" in thing["metadata"]:
                return
            self.deleted.append(thing["metadata"]["name"])
            thing["metadata"]["deletionTimestamp"] = now(self.grace)
            if thing in self.of_kind("jobs"):
                self.remove(thing)
                for pod in self._pods_of(thing):
                    self.delete(pod)
            else:
                thing["metadata"]["deletionGracePeriodSeconds"] = self.grace
                thing["_gone_at"] = self._time() + self.grace
                self.has_changed(thing)
                if self.grace:
                    self.fail_soon(thing)
                self.collect()

    def let_go(self) -> None:
        """Complete the deletions that were held back."""
        with self.changed:
            self.holds_deletions = False
            for pod in [one for one in self.of_kind("pods") if "deletionTimestamp" in one["metadata"]]:
                self.remove(pod)

    def _pods_of(self, job: Json) -> list[Json]:
        uid = job["metadata"]["uid"]
        return [one for one in self.of_kind("pods") if one["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _state(self, pod: Json, state: Json, phase: str, name: str = "run", of: str = "containerStatuses") -> None:
        with self.changed:
            others = [one for one in pod["status"].get(of, []) if one["name"] != name]
            pod["status"] |= {"phase": phase, of: [*others, {"name": name, "state": state}]}
            self.has_changed(pod)

    # -- a kubelet

    def _run(self, pod: Json) -> None:
        """Its containers on this host, as a kubelet does it: those before the main one in turn, others beside it."""
        (main,) = (one for one in pod["spec"]["containers"] if one["name"] == "run")
        if main["image"] == NO_SUCH_IMAGE:
            self.wait(pod, "ImagePullBackOff", f'Back-off pulling image "{NO_SUCH_IMAGE}"')
            return
        threading.Thread(target=self._live, args=(pod, main), daemon=True).start()

    def _live(self, pod: Json, main: Json) -> None:
        before = pod["spec"].get("initContainers", [])
        sidecars = [self._begin(pod, one) for one in before if one.get("restartPolicy") == "Always"]
        for one in (one for one in before if one.get("restartPolicy") != "Always"):
            if code := self._begin(pod, one).wait():
                self._state(pod, {"terminated": _ended(code)}, "Failed", one["name"], "initContainerStatuses")
                self.end_job(pod, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
                return
        beside = {one["name"]: self._begin(pod, one) for one in pod["spec"]["containers"] if one is not main}
        process = self._begin(pod, main, stdout=subprocess.PIPE)
        self.start(pod)
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                self.write(pod, line)
        code = _exit_code(process.returncode)
        if beside:
            self._state(pod, {"terminated": _ended(code)}, "Running")
        helpers = {name: _exit_code(one.wait()) for name, one in beside.items()}
        for sidecar in sidecars:
            _end(sidecar)
        self.finish(pod, code, helpers=helpers)

    def _begin(self, pod: Json, container: Json, stdout: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        env: dict[str, str] = {}
        for one in container.get("env", []):
            env[one["name"]] = expanded(one["value"], env)
        process = subprocess.Popen(
            [expanded(one, env) for one in (*container.get("command", []), *container.get("args", []))],
            stdout=stdout,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"} | env,
            start_new_session=True,
        )
        with self.changed:
            pod.setdefault("_processes", []).append(len(self._processes))
            self._processes.append(process)
        return process

    def _end_processes(self, pod: Json) -> None:
        for number in pod.get("_processes", []):
            _end(self._processes[number])


def _ended(code: int, reason: str | None = None) -> Json:
    """The state of a container that has ended."""
    return {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "finishedAt": now()}


def _exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def expanded(text: str, env: Mapping[str, str]) -> str:
    """What a kubelet makes of a command, an argument or the value of a variable.

    Byte by byte, as `Expand` of its package third_party/forked/golang/expansion does it: `$$` is a `$`, `$(NAME)` the
    variable if there is one, and a `$` before anything else stays, but takes the *byte* after it for a character.
    """
    given, result, at = text.encode(), bytearray(), 0
    while at < len(given):
        following = given[at + 1 : at + 2]
        if given[at : at + 1] != b"$" or not following:
            result += given[at : at + 1]
            at += 1
        elif following == b"(" and (end := given.find(b")", at)) > 0:
            name = given[at + 2 : end].decode()
            result += env.get(name, f"$({name})").encode()
            at = end + 1
        else:
            result += b"$" if following == b"$" else b"$" + following.decode("latin-1").encode()
            at += 2
    return result.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a container with all that is in it, unless it was collected, when its number may be another's."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    cluster: FakeCluster

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests are about."""


class _Problem(Exception):
    def __init__(self, status: int, reason: str, message: str, name: str | None = None) -> None:
        self.status, self.reason, self.message, self.name = status, reason, message, name


class _Cut(Exception):
    """Raised to break a connection off."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Nothing is to be printed."""

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    @property
    def cluster(self) -> FakeCluster:
        return self.server.cluster

    def _handle(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        self.cluster.requests.append((method, parts.path, query))
        fault = self.cluster.fault_for(method, self.path)
        if self.cluster.is_away:
            self._reset()
            return
        if fault is not None and fault.how in ("answer", "hang", "reset"):
            self._fail(fault)
            return
        try:
            self._check_token()
            self._route(method, parts.path, query, json.loads(body) if body else {}, fault)
        except _Problem as problem:
            self._send(problem.status, _status(problem))
        except (AssertionError, KeyError) as problem:
            self.cluster.complaints.append(f"{method} {self.path}: {problem!r}")
            raise

    def _route(self, method: str, path: str, query: dict[str, str], body: Json, fault: Fault | None) -> None:
        match = _ROUTE.fullmatch(path)
        if match is None or (match["kind"] == "jobs") != (match["group"] == "apis/batch/v1"):
            raise _Problem(404, "NotFound", "the server could not find the requested resource")
        self._check_rights(method, match)
        if match["log"]:
            self._log(self._find(match), query, fault)
            return
        if query.get("watch") == "true":
            self._watch(match, query, fault)
            return
        with self.cluster.changed:
            self.cluster.collect()
            self.cluster.record()
            status, answer = self._answer(method, match, query, body)
            self.cluster.record()
            data = json.dumps(answer).encode()
        self._send_json(status, data, fault)

    def _check_token(self) -> None:
        if self.headers["Authorization"] != f"Bearer {self.cluster.token}":
            raise _Problem(401, "Unauthorized", "Unauthorized")

    def _check_rights(self, method: str, match: re.Match[str]) -> None:
        """Who may see nothing of a namespace is not told whether there is one."""
        if self.cluster.visible is None or match["namespace"] in self.cluster.visible:
            return
        verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if match["name"] else "list")
        about = f'{match["kind"]} "{match["name"]}"' if match["name"] else match["kind"]
        group = "batch" if match["kind"] == "jobs" else ""
        raise _Problem(
            403,
            "Forbidden",
            f'{about} is forbidden: User "system:serviceaccount:default:worker" cannot {verb} resource '
            f'"{match["kind"]}" in API group "{group}" in the namespace "{match["namespace"]}"',
            match["name"],
        )

    def _answer(self, method: str, match: re.Match[str], query: dict[str, str], body: Json) -> tuple[int, Json]:
        if match["eviction"]:
            self.cluster.evict(self._find(match))
            return 201, {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}
        if method == "POST":
            return 201, self._create(match, body)
        if match["name"] is None:
            return 200, self._list(match, query)
        thing = self._find(match)
        if method == "DELETE":
            wanted = body.get("preconditions", {}).get("uid")
            if wanted not in (None, thing["metadata"]["uid"]):
                raise _Problem(409, "Conflict", "the UID in the precondition does not match", match["name"])
            self.cluster.delete(thing)
        return 200, thing

    def _create(self, match: re.Match[str], body: Json) -> Json:
        name = body["metadata"]["name"]
        if match["namespace"] not in self.cluster.namespaces:
            raise _Problem(404, "NotFound", f'namespaces "{match["namespace"]}" not found', match["namespace"])
        if (match["kind"], match["namespace"], name) in self.cluster.things:
            raise _Problem(409, "AlreadyExists", f'jobs.batch "{name}" already exists', name)
        return self.cluster.create_job(match["namespace"], body)

    def _list(self, match: re.Match[str], query: dict[str, str]) -> Json:
        found = [
            thing
            for (kind, namespace, _), thing in self.cluster.things.items()
            if (kind, namespace) == (match["kind"], match["namespace"]) and _selected(thing, query)
        ]
        if "resourceVersion" in query:
            raise AssertionError("a list from a cache may be old")
        # Of one version, that of the first page, however many there are.
        version, _, offset = query.get("continue", "").partition(":")
        version = version or str(self.cluster.version)
        list_of = f"{version} {match['kind']} {match['namespace']} {query.get('labelSelector')}"
        if offset:
            if list_of not in self.cluster.lists:
                raise _Problem(410, "Expired", "The provided continue parameter is too old")
            found = self.cluster.lists[list_of]
        start, size = int(offset or 0), min(int(query.get("limit", "500")), self.cluster.max_page)
        more = f"{version}:{start + size}" if start + size < len(found) else ""
        if more and not offset:
            self.cluster.lists[list_of] = json.loads(json.dumps(found))
        kind = f"{_KINDS[match['kind']]}List"
        metadata = {"continue": more, "resourceVersion": version}
        return {"kind": kind, "metadata": metadata, "items": found[start : start + size]}

    def _find(self, match: re.Match[str]) -> Json:
        thing = self.cluster.things.get((match["kind"], match["namespace"], match["name"]))
        if thing is None:
            raise _Problem(404, "NotFound", f'{match["kind"]} "{match["name"]}" not found', match["name"])
        return thing

    # -- answers

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_json(self, status: int, data: bytes, fault: Fault | None) -> None:
        if fault is not None and fault.how == "lose":
            self._reset()
        elif fault is not None and fault.how == "truncate":
            self._send(status, data[: len(data) // 2])
        else:
            self._send(status, data)

    def _fail(self, fault: Fault) -> None:
        if fault.how == "reset":
            self._reset()
        elif fault.how == "hang":
            self._wait_while(fault)
            self._reset()
        else:
            assert fault.status is not None
            problem = _Problem(fault.status, fault.reason, fault.message)
            self._send(fault.status, _status(problem) if fault.body is None else fault.body, fault.headers)

    def _wait_while(self, fault: Fault) -> None:
        with self.cluster.changed:
            self.cluster.changed.wait_for(lambda: self.cluster.closing or fault not in self.cluster.faults, 60)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _log(self, pod: Json, query: dict[str, str], fault: Fault | None) -> None:
        assert query["container"] == "run"
        if not pod["status"].get("containerStatuses", [{"state": {"waiting": {}}}])[0]["state"].keys() - {"waiting"}:
            raise _Problem(400, "BadRequest", 'container "run" in pod is waiting to start: ContainerCreating')
        self._stream("text/plain", self._lines(pod, query), fault)

    def _watch(self, match: re.Match[str], query: dict[str, str], fault: Fault | None) -> None:
        assert query["allowWatchBookmarks"] == "true"
        assert int(query["timeoutSeconds"]) > 0
        with self.cluster.changed:
            self.cluster.record()
            position = self.cluster.position_of(query["resourceVersion"])
            self.cluster.watches[match["kind"]] += 1
        try:
            self._stream("application/json", self._events(match, query, position), fault)
        except _Cut:
            self._reset()
        finally:
            with self.cluster.changed:
                self.cluster.watches[match["kind"]] -= 1
                self.cluster.changed.notify_all()

    def _events(self, match: re.Match[str], query: dict[str, str], position: int) -> Iterator[bytes]:
        """Until `timeoutSeconds` are over; empty while there is nothing, so that a client that has gone is noticed."""
        cluster, where = self.cluster, f"{match['kind']}/{match['namespace']}"
        until = time.monotonic() + int(query["timeoutSeconds"])
        interval = cluster.bookmark_interval
        bookmark_at = time.monotonic() + interval if interval else float("inf")
        cut = cluster.life, cluster.cuts
        while time.monotonic() < until and not cluster.closing:
            if (cluster.life, cluster.cuts) != cut:
                raise _Cut
            with cluster.changed:
                cluster.collect()
                cluster.record()
                if position > len(cluster._history):
                    told = [{"type": "ERROR", "object": _said(_Problem(410, "Expired", "too old resource version"))}]
                    until = 0.0
                else:
                    position, told = cluster.since(position, where, query)
                version = cluster.version
                if not told:
                    look_at = min(bookmark_at, until, time.monotonic() + cluster.poll_interval)
                    cluster.changed.wait(max(0.0, look_at - time.monotonic()))
            if not told and time.monotonic() >= min(bookmark_at, until) and interval:
                bookmark_at = time.monotonic() + interval
                metadata = {"resourceVersion": str(version), "creationTimestamp": None}
                told = [{"type": "BOOKMARK", "object": {"kind": _KINDS[match["kind"]], "metadata": metadata}}]
            yield b"".join(json.dumps(one).encode() + b"\n" for one in told)

    def _stream(self, content_type: str, pieces: Iterator[bytes], fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        for data in pieces:
            if fault is not None and sent + len(data) >= fault.after:
                self._chunk(data[: fault.after - sent])
                if fault.how == "freeze":
                    self._wait_while(fault)
                if fault.how != "end":
                    self.wfile.flush()
                    self.close_connection = True
                    return
                break
            self._chunk(data)
            sent += len(data)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _lines(self, pod: Json, query: dict[str, str]) -> Iterator[bytes]:
        """As a kubelet: see `ReadLogs` of its package `logs`."""
        since = query.get("sinceTime")
        begin = int(datetime.fromisoformat(since).timestamp()) * 1_000_000_000 if since else 0
        is_new_line = True
        for entry in self._entries(self.cluster.logs[pod["metadata"]["uid"]], query["follow"] == "true"):
            if entry.at >= begin:
                yield rfc3339(entry.at).encode() + b" " + entry.text if is_new_line else entry.text
            is_new_line = entry.text.endswith(b"\n")

    def _entries(self, log: Log, follow: bool) -> Iterator[Entry]:
        position = log.first
        while entries := self._new_entries(log, position, follow):
            position += len(entries)
            yield from entries

    def _new_entries(self, log: Log, position: int, follow: bool) -> list[Entry]:
        with self.cluster.changed:
            if follow:
                self.cluster.changed.wait_for(
                    lambda: self.cluster.closing or log.ended or position < len(log.entries), timeout=4 * 3600
                )
            return log.entries[position:]


def _status(problem: _Problem) -> bytes:
    return json.dumps(_said(problem)).encode()


def _said(problem: _Problem) -> Json:
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": problem.message}
    details = {"name": problem.name} if problem.name else {}
    return said | {"reason": problem.reason, "code": problem.status, "details": details}


def _unversioned(thing: Json) -> Json:
    metadata = {name: value for name, value in thing["metadata"].items() if name != "resourceVersion"}
    return thing | {"metadata": metadata}


def _selected(thing: Json, query: dict[str, str]) -> bool:
    labels = thing["metadata"].get("labels", {})
    wanted = query.get("fieldSelector", "").removeprefix("involvedObject.uid=")
    if wanted and thing.get("involvedObject", {}).get("uid") != wanted:
        return False
    return all(_matches(labels, one) for one in re.findall(r"[^,(]+(?:\([^)]*\))?", query.get("labelSelector", "")))


def _matches(labels: dict[str, str], requirement: str) -> bool:
    name, _, values = requirement.partition(" in ")
    if values:
        return labels.get(name) in values.strip("()").split(",")
    name, _, value = requirement.partition("=")
    return labels.get(name) == value


@contextmanager
def fake_cluster(**options: Any) -> Iterator[FakeCluster]:
    with FakeCluster(**options) as cluster:
        yield cluster
