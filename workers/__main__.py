"""`python -P -m reprieve.workers worker …`: Celery's command line for our app, from whatever folder it is started in.

`celery -A` puts the current folder before everything else while it imports an app: a `redis.py` there, or a `models/`,
would be taken for what we import. A folder that is on the path already stays where it is: here, the last.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Become that Celery process; does not return."""
    from reprieve.workers.secrecy import conceal

    conceal()  # Celery says the same once it has begun; to import it takes a second, in which a run could look.
    from celery.__main__ import main as celery

    with suppress(FileNotFoundError):  # The current folder may be gone.
        sys.path.append(str(Path.cwd()))
    sys.argv = ["celery", "-A", "reprieve.workers.app", *arguments]
    celery()


if __name__ == "__main__":
    main(sys.argv[1:])
