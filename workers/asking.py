"""Ask the platforms what they know of suspects: many at once, adapter beside adapter, within a time limit.

An adapter that does not answer in time, hangs or raises has said UNKNOWN. Work that only its own host can look at is
asked about through rows (`models.rows.Question`): the workers of that host answer them. A host without a worker is not
waited for.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from reprieve.adapters.protocol import Attaching, Probing
from reprieve.adapters.registry import find_adapter
from reprieve.models.errors import UnknownAdapter
from reprieve.models.paging import pages
from reprieve.models.status import Probe
from reprieve.models.work import Fence
from reprieve.stores.questions import Handle
from reprieve.workers.bootstrap import Services

logger = logging.getLogger(__name__)

#: Handles in one question to an adapter.
BATCH = 500
#: Seconds between two looks for answers.
LOOK_INTERVAL = 0.1

_lock = threading.Lock()
#: The adapters that are being asked. One that hangs is not asked again until it has come back.
_asked: dict[str, threading.Thread] = {}

Answers = dict[UUID, Probe]


def ask(services: Services, fences: Iterable[Fence]) -> Answers:
    """What the platforms say about the work under these fences; no answer for work whose platform cannot be asked."""
    handles = [one for one in services.questions.handles(fences) if _can_be_asked(one.adapter)]
    if not handles:
        return {}
    deadline = time.monotonic() + services.timing.ask_limit.total_seconds()
    node = services.identity.seen()
    here = [one for one in handles if one.is_for(node)]
    answers = dict.fromkeys((one.run_id for one in handles), Probe.UNKNOWN)
    asked = _ask_hosts(services, [one for one in handles if not one.is_for(node)])
    answers |= ask_here(services, here, deadline)
    return answers | _answers_of_hosts(services, asked, deadline)


def _can_be_asked(adapter: str) -> bool:
    """Whether its work can be asked about. An adapter that is not installed here may be on the work's host."""
    try:
        return issubclass(find_adapter(adapter), Probing)
    except UnknownAdapter:
        return True


def _ask_hosts(services: Services, handles: Sequence[Handle]) -> set[UUID]:
    """Put the questions to the hosts that have a live worker; returns the runs for which an answer may come."""
    if not handles:
        return set()
    alive = services.workers.hosts(services.timing.worker_gone_after)
    asked = [one for one in handles if one.host in alive]
    services.questions.ask(asked)
    return {one.run_id for one in asked}


def _answers_of_hosts(services: Services, asked: set[UUID], deadline: float) -> Answers:
    answers: Answers = {}
    while asked - answers.keys():
        answers = {run_id: said for run_id, said in services.questions.answers().items() if run_id in asked}
        if time.monotonic() > deadline:
            break
        time.sleep(LOOK_INTERVAL)
    return answers


def answer_questions(services: Services) -> int:
    """Answer what a sweep asks about work of this host; returns how many questions were answered."""
    handles = services.questions.unanswered(services.node)
    if not handles:
        return 0
    deadline = time.monotonic() + services.timing.ask_limit.total_seconds() / 2
    said = ask_here(services, handles, deadline)
    services.questions.answer({(one.run_id, one.attempt): said[one.run_id] for one in handles})
    return len(handles)


def ask_here(services: Services, handles: Sequence[Handle], deadline: float) -> Answers:
    """Ask the adapters of this process, each on a thread of its own, until `deadline` (of the monotonic clock)."""
    said: Answers = {}
    threads = []
    for adapter, ours in _by_adapter(handles).items():
        with _lock:
            if adapter in _asked and _asked[adapter].is_alive():
                logger.error(
                    "The adapter %r still hangs from an earlier question: nothing is known of its work.", adapter
                )
                continue
            thread = threading.Thread(target=_ask_one, args=(services, adapter, ours, said), daemon=True)
            _asked[adapter] = thread
            thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    # A copy: an answer that comes too late must not change it.
    return dict.fromkeys((one.run_id for one in handles), Probe.UNKNOWN) | dict(said)


def _by_adapter(handles: Iterable[Handle]) -> dict[str, list[Handle]]:
    groups: defaultdict[str, list[Handle]] = defaultdict(list)
    for one in handles:
        groups[one.adapter].append(one)
    return groups


def _ask_one(services: Services, name: str, handles: Sequence[Handle], said: Answers) -> None:
    try:
        adapter = services.adapters.get(name)
    except UnknownAdapter as error:
        logger.error("%s Nothing is known of its work.", error)
        return
    if isinstance(adapter, Probing):
        for batch in pages(handles, BATCH):
            said.update(_probe(adapter, batch))


def _probe(adapter: Probing, handles: Sequence[Handle]) -> Answers:
    """What an adapter says. If it raises, ask by halves, so that one bad handle costs no other its answer."""
    try:
        answers = adapter.probe([one.handle for one in handles])
        return {one.run_id: _said(adapter, answer) for one, answer in zip(handles, answers, strict=True)}
    except Exception as error:
        if len(handles) == 1:
            logger.exception("Run %s: its platform could not be asked (%s).", handles[0].run_id, type(error).__name__)
            return {}
        middle = len(handles) // 2
        return _probe(adapter, handles[:middle]) | _probe(adapter, handles[middle:])


def _said(adapter: Probing, answer: Probe) -> Probe:
    """The answer; ENDED becomes UNKNOWN if the adapter cannot attach, since nobody could ever read how it ended."""
    said = Probe(answer)
    return Probe.UNKNOWN if said is Probe.ENDED and not isinstance(adapter, Attaching) else said
