"""`reprieve --version`, and completion by the shell."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reprieve.cli.main import app


def test_the_version_is_that_of_the_package() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"reprieve {version('reprieve')}\n")


@pytest.mark.parametrize(("typed", "offered"), [("reprieve do", ["doctor"]), ("reprieve token re", ["revoke"])])
def test_a_shell_completes_commands(typed: str, offered: list[str]) -> None:
    asked = {"_REPRIEVE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    program = Path(sys.executable).with_name("reprieve")
    done = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (offered, "")
