"""The stand-in for an API server of Kubernetes, for a bench: `python -m bench.cluster FOLDER`.

Each Job's Pod runs, has printed a line, and goes on. Writes a kubeconfig into the folder; for each line on its standard
input, it prints how many requests it has had.
"""

import sys
import threading
import time
from pathlib import Path

from tests.support.kubernetes_api import FakeCluster


def run_pods(fake: FakeCluster) -> None:
    """Have every Pod that was created begin."""
    begun: set[str] = set()
    while True:
        with fake.changed:
            waiting = [pod for pod in fake.of_kind("pods") if pod["metadata"]["uid"] not in begun]
        for pod in waiting:
            begun.add(pod["metadata"]["uid"])
            fake.start(pod)
            fake.write(pod, b"hello\n")
        time.sleep(0.2)


def main() -> None:
    threading.stack_size(256 * 1024)
    with FakeCluster() as fake:
        # As a real one has it, which sends a bookmark about once a minute.
        fake.poll_interval, fake.bookmark_interval = 0.5, 60.0
        threading.Thread(target=run_pods, args=(fake,), daemon=True).start()
        sys.stdout.write(f"{fake.kubeconfig(Path(sys.argv[1]))}\n")
        sys.stdout.flush()
        for _ in sys.stdin:
            sys.stdout.write(f"{len(fake.requests)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
