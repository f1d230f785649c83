"""What becomes of work that its worker gives up: asked to stop, cut off from the database, or itself in trouble."""

from reprieve.models.liveness import Timing
from reprieve.models.nodes import in_words
from reprieve.models.reaping import may_retry, retry_delay
from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.work import End, Work


def end_of_drained(work: Work, waited: float, timing: Timing) -> End:
    """The end of in-process work after a drain of `waited` seconds: queued again while attempts are left, or failed."""
    return end_of_given_up(
        work, f"Its worker was asked to stop, and the work had not ended {waited:g} s later.", timing
    )


def end_of_cut_off(work: Work, timing: Timing) -> End:
    """The same of a worker that was cut off from the database for too long: another attempt may begin elsewhere."""
    limit = in_words(timing.cut_off_limit)
    return end_of_given_up(
        work, f"Its worker was cut off from the database for {limit}, and has ended the work.", timing
    )


def end_of_given_up(work: Work, sentence: str, timing: Timing, last_seq: int | None = None) -> End:
    """The end of an attempt that its worker cannot go on with, nor another one: it is lost with its worker."""
    retry = may_retry(ErrorCode.PROCESS_LOST, work)
    return End(
        fence=work.fence,
        status=Status.QUEUED if retry else Status.FAILED,
        kind=EventKind.RETRIED if retry else EventKind.FAILED,
        error_code=None if retry else ErrorCode.PROCESS_LOST,
        error_message=None if retry else sentence,
        outcome={"error_code": ErrorCode.PROCESS_LOST.value},
        detail={"error_code": ErrorCode.PROCESS_LOST.value, "error_message": sentence},
        last_seq=last_seq,
        retry_after=retry_delay(work.fence, work.attempt, timing),
    )
