"""The commands, a file for each subject: a few lines each over the rooms. `cli/main.py` has their list.

Each imports what it needs when it is called: `reprieve --help` has all of them, and is to be there at once.
"""

from typing import Annotated

import typer

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or the beginning or end of one.")]
AsJson = Annotated[bool, typer.Option("--json", help="For a program to read.")]
