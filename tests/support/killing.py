"""A service that dies at the worst moment, as a fork of this process."""

import os
import signal
import traceback
from collections.abc import Callable

import pytest

from reprieve.client.sending import Hints


def in_a_fork(work: Callable[[], object]) -> int:
    """Do this in a child; returns its exit status, negative for the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_before_the_message(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do this in a child, which is killed in the place of the first message that it would send."""
    with monkeypatch.context() as patch:
        patch.setattr(Hints, "announce", lambda self, run_ids: os.kill(os.getpid(), signal.SIGKILL))
        assert in_a_fork(work) == -signal.SIGKILL
