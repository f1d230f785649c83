"""A log of a gigabyte is read, closed and read again in bounded memory. Takes some minutes: `make test-slow`."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprieve.models.chunks import Block, encode, pack
from reprieve.models.closing import Closing
from reprieve.models.work import End, Outcome, Work
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.finish import finish
from tests.support.rows import running

REPRIEVE = Path(sys.executable).parent / "reprieve"
LINES = 10_000_000
LINES_OF_A_BLOCK = 2_000
#: Megabytes that reading a large log may take beyond what reading a small one does.
BOUND_MB = 100


def line(number: int) -> bytes:
    return b"%09d %s\n" % (
        number,
        b"a line as programs print them, of about 120 bytes: level=INFO worker=7 batch=1234 ok=true shard=%d"
        % (number % 97),
    )


def fill(services: Services, work: Work, lines: int) -> tuple[int, str]:
    """Store so many lines; returns their bytes in all and SHA-256."""
    digest, size = hashlib.sha256(), 0
    for start in range(0, lines, 20 * LINES_OF_A_BLOCK):
        message = []
        for first in range(start, min(start + 20 * LINES_OF_A_BLOCK, lines), LINES_OF_A_BLOCK):
            texts = [line(number) for number in range(first, min(first + LINES_OF_A_BLOCK, lines))]
            digest.update(b"".join(texts))
            size += sum(map(len, texts))
            payload = pack([encode((0, "stdout", text, None)) for text in texts])
            message.append(Block(work.run_id, 1, work.epoch, first + 1, first + len(texts), payload))
        ingesting.ingest(services, message)
    finish(services, [End.by_result(work.fence, Outcome(), lines)])
    return size, digest.hexdigest()


def peak_mb(pid: int | str) -> float:
    """The largest resident set of a process so far; 0.0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(row.split()[1]) / 1024 for row in status.splitlines() if row.startswith("VmHWM")), 0.0)


def read(work: Work, folder: Path) -> tuple[str, float]:
    """SHA-256 of what `reprieve logs --raw` gives, and the megabytes that it took."""
    path, peak = folder / "read", 0.0
    with path.open("wb") as out:
        command = [REPRIEVE, "logs", "--raw", "--stream", "stdout", str(work.run_id)]
        # Looked at while it runs: what `wait4` tells at the end counts this process too, from the fork to the exec.
        with subprocess.Popen(command, stdout=out) as process:
            while process.poll() is None:
                peak = max(peak, peak_mb(process.pid))
                time.sleep(0.02)
    assert process.returncode == 0
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), peak


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_log_of_a_gigabyte_is_read_hot_and_closed_in_bounded_memory(services: Services, tmp_path: Path) -> None:
    small, large = running(services), running(services)
    _, expected = fill(services, small, 1_000)
    told, least = read(small, tmp_path)
    assert told == expected
    size, expected = fill(services, large, LINES)
    assert size > 1_000_000_000
    told, hot = read(large, tmp_path)
    assert told == expected
    assert hot < least + BOUND_MB
    before = peak_mb("self")
    assert close_log(services, large.run_id, 1) is Closing.DONE
    assert peak_mb("self") < before + BOUND_MB
    told, closed = read(large, tmp_path)
    assert told == expected
    assert closed < least + BOUND_MB
    print(f"\n{size:,} bytes; megabytes of the reader: small {least:.0f}, hot {hot:.0f}, closed {closed:.0f}")
