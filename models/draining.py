"""How an attempt ends that its worker gives up: asked to stop, cut off from the database, or in trouble itself."""

from reprieve.models.liveness import Timing
from reprieve.models.nodes import in_words
from reprieve.models.retrying import Attempt, end_of_lost
from reprieve.models.status import ErrorCode
from reprieve.models.work import End


def end_of_drained(work: Attempt, waited: float, timing: Timing) -> End:
    """The end of in-process work after a drain of `waited` seconds: queued again while attempts are left, or failed."""
    return end_of_given_up(
        work, f"Its worker was asked to stop, and the work had not ended {waited:g} s later.", timing
    )


def end_of_cut_off(work: Attempt, timing: Timing) -> End:
    """The same for a worker that was cut off from the database for too long: another attempt may begin elsewhere."""
    limit = in_words(timing.cut_off_limit)
    return end_of_given_up(
        work, f"Its worker was cut off from the database for {limit}, and has ended the work.", timing
    )


def end_of_given_up(work: Attempt, sentence: str, timing: Timing, last_seq: int | None = None) -> End:
    """The end of an attempt that neither its worker nor another one can go on with: it is lost with its worker."""
    return end_of_lost(work, ErrorCode.PROCESS_LOST, sentence, timing, last_seq)
