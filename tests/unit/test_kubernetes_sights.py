"""What is known of a Job by events, lists and answers, in whatever order they come."""

from typing import Any
from uuid import UUID

from reprieve.adapters.kubernetes.job import job_name, labels_of
from reprieve.adapters.kubernetes.sights import JOBS, PODS, Sight, Sights, trimmed

RUN = UUID(int=7)
NAME = job_name(RUN, 1)


def job(version: int | str, *, uid: str = "u", ended: bool = False) -> dict[str, Any]:
    conditions = [{"type": "Failed", "status": "True"}] if ended else []
    metadata = {"name": NAME, "uid": uid, "labels": labels_of(RUN, 1), "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"template": "large"}, "status": {"conditions": conditions}}


def pod(version: int, name: str = "p", **status: Any) -> dict[str, Any]:
    owner = [{"kind": "Job", "uid": "u"}]
    metadata = {"name": name, "uid": name, "labels": labels_of(RUN, 1), "ownerReferences": owner}
    return {"metadata": metadata | {"resourceVersion": str(version)}, "spec": {"nodeName": "n1"}, "status": status}


def sight() -> Sight:
    return Sight(NAME, lambda: None, uid="u")


def test_an_answer_to_a_creation_that_comes_after_the_event_of_the_end_does_not_undo_it() -> None:
    one = sight()
    one.take(JOBS, job(9, ended=True))
    one.take(JOBS, job(5))
    assert one.job == trimmed(job(9, ended=True))


def test_an_event_that_comes_twice_wakes_nobody() -> None:
    woken: list[int] = []
    one = Sight(NAME, lambda: woken.append(1), uid="u")
    for _ in range(3):
        one.take(JOBS, job(5))
    assert len(woken) == 1


def test_a_list_holds_whatever_its_version_for_a_restored_server_counts_anew() -> None:
    one = sight()
    one.take(JOBS, job(900))
    one.settle(JOBS, [job(12, ended=True)])
    assert one.job == trimmed(job(12, ended=True))


def test_whoever_asks_while_a_list_settles_it_is_to_ask_again() -> None:
    one = sight()
    one.settle(JOBS, [])
    changes = one.changes
    one.settle(JOBS, [])
    assert one.changes != changes


def test_what_lacks_in_a_list_or_is_gone_from_the_watch_is_in_doubt_and_not_gone() -> None:
    for lose in (lambda one: one.settle(JOBS, []), lambda one: one.lose(JOBS, job(6))):
        one = sight()
        one.take(JOBS, job(5))
        lose(one)
        assert (one.job, one.is_missing, JOBS in one.known) == (None, True, False)
        one.take(JOBS, job(7))
        assert (one.is_missing, JOBS in one.known) == (False, True)


def test_a_job_of_that_name_with_another_uid_and_its_deletion_are_not_ours() -> None:
    one = sight()
    one.take(JOBS, job(5))
    one.take(JOBS, job(6, uid="another", ended=True))
    one.lose(JOBS, job(7, uid="another"))
    assert one.job == trimmed(job(5))


def test_a_state_that_was_overtaken_before_anybody_looked_is_kept() -> None:
    one = sight()
    one.take(JOBS, job(5))
    one.take(PODS, pod(6, phase="Running", containerStatuses=[{"name": "run", "state": {"running": {}}}]))
    one.take(PODS, pod(7, phase="Failed", reason="Evicted"))
    one.lose(PODS, pod(8, phase="Failed"))
    assert one.pods == {}
    assert one.seen is not None
    assert one.seen.end.detail["reason"] == "Evicted"


def test_a_pod_is_known_by_its_labels_and_what_nobody_follows_is_nobodys() -> None:
    sights, one = Sights(), sight()
    sights.add(one)
    assert sights.of(PODS, pod(5)) == sights.of(JOBS, job(5)) == [one]
    foreign = pod(5)
    foreign["metadata"]["labels"] = {"reprieve/run-id": "x"}
    assert sights.of(PODS, foreign) == []
    sights.remove(one)
    assert not sights
    assert sights.of(PODS, pod(5)) == []
