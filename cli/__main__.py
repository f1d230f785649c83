"""The entry point of `reprieve`, which says what is missing where a service alone is installed."""

import sys


def main() -> None:
    """Carry the command out, or say what is to be installed for it."""
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


if __name__ == "__main__":
    main()
