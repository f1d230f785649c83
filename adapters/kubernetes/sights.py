"""What the watches of a namespace have shown of the Jobs that are followed here, and of nothing else. Pure: no I/O.

A watch gives every Job and Pod of Reprieve in the namespace. Of those that nobody here follows, nothing is kept; of the
others, what `state.py` reads. What is gone from a watch, or lacks in a list, is in doubt: it is asked for by name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from reprieve.adapters.kubernetes.answers import Json
from reprieve.adapters.kubernetes.job import ATTEMPT, RUN_ID, job_name
from reprieve.adapters.kubernetes.seen import Seen, later
from reprieve.adapters.kubernetes.state import notices, owned, seen_of

JOBS, PODS = "jobs", "pods"
_METADATA = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "labels",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "uid",
)
_STATUS = ("conditions", "containerStatuses", "initContainerStatuses", "message", "phase", "reason")


def trimmed(thing: Json) -> Json:
    """What is read of a Job or a Pod: a tenth of it."""
    spec, status = thing.get("spec") or {}, thing.get("status") or {}
    containers = [
        {"name": one.get("name"), "resources": {"limits": (one.get("resources") or {}).get("limits")}}
        for one in spec.get("containers") or []
    ]
    before = [
        {"name": one.get("name"), "restartPolicy": one.get("restartPolicy")} for one in spec.get("initContainers") or []
    ]
    where = {"nodeName": spec["nodeName"]} if "nodeName" in spec else {}
    return {
        "metadata": {name: thing["metadata"][name] for name in _METADATA if name in thing["metadata"]},
        "spec": where | {key: some for key, some in (("containers", containers), ("initContainers", before)) if some},
        "status": {name: status[name] for name in _STATUS if name in status},
    }


def is_another(thing: Json, than: Json) -> bool:
    """Whether it is another object, or another state of it."""
    one, other = (_version(each) for each in (thing, than))
    return not one or one != other or thing["metadata"]["uid"] != than["metadata"]["uid"]


def is_newer(thing: Json, than: Json) -> bool:
    """The same, and not a state of this object from before. Where versions are no numbers, none is."""
    one, other = (_version(each) for each in (thing, than))
    if not is_another(thing, than):
        return False
    is_old = one.isdecimal() and other.isdecimal() and int(one) < int(other)
    return not is_old or thing["metadata"]["uid"] != than["metadata"]["uid"]


def _version(thing: Json) -> str:
    return thing["metadata"].get("resourceVersion") or ""


@dataclass(eq=False)
class Sight:
    """One Job that is followed, and its Pods. `wake` is called when there is something new."""

    name: str
    wake: Callable[[], None]
    uid: str | None = None
    """Of the Job, once it is known: another of its name is not the attempt's, nor are its Pods."""
    job: Json | None = None
    pods: dict[str, Json] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    """Of which of the two kinds this is how it stands; what is not in it is in doubt."""
    is_missing: bool = False
    """Whether it is in doubt because it is gone from the watch, or a list lacks it."""
    changes: int = 0
    """How often something has changed: what was asked for meanwhile may be older."""
    seen: Seen | None = None
    """The most telling state that passed by, however soon the next one came."""
    told: dict[str, str] = field(default_factory=dict)
    """What was about to end the work, by subject."""

    def is_of(self, uid: str) -> None:
        """Which Job it is, is known from here on."""
        self.uid = uid
        self.pods = {name: pod for name, pod in self.pods.items() if owned([pod], uid)}
        if self.job is not None and self.job["metadata"]["uid"] != uid:
            self._doubt()

    def take(self, kind: str, thing: Json) -> None:
        """A new state of the Job, or of one of its Pods, by an event; it may come twice, or late."""
        if self._is_ours(kind, thing):
            self._take(kind, thing, is_newer)

    def _take(self, kind: str, thing: Json, is_news: Callable[[Json, Json], bool]) -> None:
        name = thing["metadata"]["name"]
        before = self.job if kind == JOBS else self.pods.get(name)
        if kind == JOBS:
            self.known.add(JOBS)
            self.is_missing = False
        if before is not None and not is_news(thing, before):
            return
        if kind == JOBS:
            self.job = trimmed(thing)
        else:
            self.pods[name] = trimmed(thing)
        self._has_changed()

    def lose(self, kind: str, thing: Json) -> None:
        """It is gone from the watch, and this was its last state."""
        if not self._is_ours(kind, thing):
            return
        self.take(kind, thing)
        if kind == JOBS:
            self._doubt()
        else:
            del self.pods[thing["metadata"]["name"]]
            self._has_changed()

    def settle(self, kind: str, things: Iterable[Json]) -> None:
        """All that there is of this kind, by an answer. A Job that lacks in it is in doubt.

        It holds whatever its version: an API server that was restored from a backup counts from there.
        """
        # Whoever asks about this one just now may have been answered before: that is to be asked again.
        self.changes += 1
        ours = [thing for thing in things if self._is_ours(kind, thing)]
        if kind == JOBS:
            if not ours and not self.is_missing:
                self._doubt()
        else:
            names = {pod["metadata"]["name"] for pod in ours}
            was_known, gone = PODS in self.known, self.pods.keys() - names
            self.pods = {name: pod for name, pod in self.pods.items() if name in names}
            self.known.add(PODS)
            if gone or not was_known:
                self._has_changed()
        for thing in ours:
            self._take(kind, thing, is_another)

    def unsettle(self, kind: str) -> None:
        """What has happened to it of this kind may have passed us by."""
        self.known.discard(kind)
        self.changes += 1
        self.wake()

    def _is_ours(self, kind: str, thing: Json) -> bool:
        if kind == JOBS:
            return self.uid in (None, thing["metadata"]["uid"])
        return bool(owned([thing], self.uid))

    def _doubt(self) -> None:
        self.job = None
        self.is_missing = True
        self.known.discard(JOBS)
        self._has_changed()

    def _has_changed(self) -> None:
        self.changes += 1
        pods = list(self.pods.values())
        self.seen = later(self.seen, seen_of(self.job or {}, pods))
        self.told |= notices(self.job or {}, pods)
        self.wake()


class Sights:
    """All that are followed here in one namespace, by the name of their Job."""

    def __init__(self) -> None:
        self._of: dict[str, list[Sight]] = {}

    def add(self, sight: Sight) -> None:
        self._of.setdefault(sight.name, []).append(sight)

    def remove(self, sight: Sight) -> None:
        left = [one for one in self._of.get(sight.name, []) if one is not sight]
        if left:
            self._of[sight.name] = left
        else:
            self._of.pop(sight.name, None)

    def __bool__(self) -> bool:
        return bool(self._of)

    def all(self) -> list[Sight]:
        return [sight for some in self._of.values() for sight in some]

    def of(self, kind: str, thing: Json) -> list[Sight]:
        """Those that a Job or a Pod is of."""
        name = thing["metadata"]["name"] if kind == JOBS else _job_of(thing)
        return self._of.get(name, [])


def _job_of(pod: Json) -> str:
    """The name of the Job that a Pod is of, by its labels; empty when they are not ours."""
    labels = pod["metadata"].get("labels") or {}
    try:
        return job_name(UUID(labels[RUN_ID]), int(labels[ATTEMPT]))
    except (KeyError, TypeError, ValueError):
        return ""
