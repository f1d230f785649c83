"""The entry point of `reprieve`, which says what is missing where a service alone is installed."""

import os
import sys
from typing import NoReturn


def main() -> None:
    """Carry the command out, or say what is to be installed for it."""
    if sys.argv[1:] == ["healthcheck"]:
        check()  # Without what the other commands import, for which it would be started a hundred times as often.
    try:
        from reprieve.cli.main import main as carry_out
    except ModuleNotFoundError as error:
        from reprieve.cli.extras import missing
        from reprieve.cli.sentences import say

        told = missing(error, "The command `reprieve`")
        if told is None:
            raise
        say(told, problem=True)
        sys.exit(2)
    carry_out()


def check() -> NoReturn:
    """Say whether this container's process turns, or answers; exit status 1 if it does not."""
    from reprieve.cli.healthcheck import examine
    from reprieve.cli.sentences import say

    well, sentence = examine(os.environ)
    say(sentence)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
