"""A worker's half of the log pipeline as a process of its own: prints numbered lines for a run, as fast as asked.

    python -m tests.support.producer RUN_ID EPOCH LINES [PER_SECOND]

After each `on_log` that has returned, the number of the line goes to standard output: what the test finds there was
handed over. At the end of its lines it waits until the store has everything.
"""

import sys
import time
from uuid import UUID

from reprieve.adapters.shipper import LogShipper
from reprieve.models.work import Work
from reprieve.workers.bootstrap import services
from reprieve.workers.context import RunContext
from reprieve.workers.ingest import publish


def main(run_id: str, epoch: str, lines: str, per_second: str = "0") -> None:
    wired = services()
    shipper = LogShipper(wired.settings.spool_dir, publish, wired.logs.stored)
    shipper.start()
    context = RunContext(wired, shipper, Work(UUID(run_id), 1, int(epoch), "detached", {}, {}))
    for number in range(int(lines)):
        context.on_log("stdout", line(number))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        if per_second != "0":
            time.sleep(1 / float(per_second))
    sys.exit(0 if shipper.close(120) else 1)


def line(number: int) -> bytes:
    return b"line %06d of a flood\n" % number


if __name__ == "__main__":
    main(*sys.argv[1:])
