"""Writes docs/reference.md: settings, commands, error codes and events, and the HTTP operations, as the code has them.

python -m tests.reference
"""

import ast
import inspect
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer
from pydantic_core import PydanticUndefined

from reprieve.api.app import create_app
from reprieve.cli.main import app
from reprieve.models import status
from reprieve.models.status import ErrorCode, EventKind, Proof, Status
from reprieve.workers.settings import PREFIX, Settings

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"

HEAD = """\
# Reference

Written by `make reference` from the code; a test fails when this page is not up to date. Metrics are in
[metrics.md](metrics.md), the states of a run in [run_lifecycle.md](run_lifecycle.md).
"""


def page() -> str:
    parts = (_settings(), _commands(), _words(), _operations())
    return "\n".join([HEAD, *(line for part in parts for line in part)]) + "\n"


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "In the environment, or in `.env` where the process starts.\n"
    yield "| variable | default | what it is |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        computed = {"data_dir": "the user's data folder", "node_name": "the host name"}
        default = computed.get(name, _shown(field.default))
        yield f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |"
    yield ""


def _shown(default: Any) -> str:
    return "" if default in (None, (), PydanticUndefined) else f"`{default}`"


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "Exit status 2, and a sentence, when something that was given cannot work; 130 after Ctrl-C.\n"
    yield from _commands_of(typer.main.get_command(app), "reprieve")


def _commands_of(group: Any, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _commands_of(command, f"{path} {name}")
            continue
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
        shown = " ".join([f"{path} {name}", *(["[OPTIONS]"] if options else []), *(_place(one) for one in arguments)])
        yield f"### `{shown}`\n"
        yield f"{' '.join(command.help.split())}\n"
        described = [one for one in (*arguments, *options) if one.help]
        if described:
            yield "| | |"
            yield "|---|---|"
            for one in described:
                named = _place(one) if one in arguments else ", ".join(one.opts)
                yield f"| `{named}` | {one.help} |"
            yield ""


def _place(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return str(name) if argument.required else f"[{name}]"


def _words() -> Iterator[str]:
    titles = {Status: "Statuses", ErrorCode: "Error codes", EventKind: "Events", Proof: "Proofs of life"}
    for kind, title in titles.items():
        yield f"## {title}\n"
        told = _docstrings(kind)
        for member in kind:
            yield f"- `{member.value}`" + (f": {told[member.name]}" if member.name in told else "")
        yield ""


def _docstrings(kind: type[StrEnum]) -> dict[str, str]:
    """What stands below each member in the source."""
    (found,) = (
        node for node in ast.parse(inspect.getsource(status)).body if getattr(node, "name", "") == kind.__name__
    )
    assert isinstance(found, ast.ClassDef)
    told = {}
    for member, below in zip(found.body, found.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            told[ast.unparse(member.targets[0])] = " ".join(str(below.value.value).split())
    return told


def _operations() -> Iterator[str]:
    yield "## HTTP operations\n"
    yield "What each takes and answers is in `/openapi.json`; [api.md](api.md) says who may.\n"
    yield "| | | answers |"
    yield "|---|---|---|"
    document = create_app(None).openapi()  # type: ignore[arg-type]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            told = operation["description"].split("\n")[0]
            yield f"| `{method.upper()} {path}` | {told} | {', '.join(operation['responses'])} |"


if __name__ == "__main__":
    PAGE.write_text(page())
