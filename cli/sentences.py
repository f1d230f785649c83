"""What a command says: sentences for a person, a line each, and JSON for a program."""

import json
import sys
from typing import Any

from reprieve.models.text import shown


def say(*sentences: object, problem: bool = False) -> None:
    """Print each sentence as one line, whatever is in it; a problem on standard error, as `reprieve: …`."""
    output = sys.stderr if problem else sys.stdout
    for sentence in sentences:
        print(("reprieve: " if problem else "") + shown(sentence), file=output, flush=True)


def say_json(value: Any) -> None:
    """Print data for a program, in ASCII: a terminal that it is looked at on takes none of it for a command."""
    print(json.dumps(value), flush=True)
