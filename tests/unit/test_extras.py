"""What a service installs is enough to ask for runs; a command that needs more says which extra brings it."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Collection
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from reprieve.cli.extras import EXTRAS

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
#: No command needs these by themselves.
OF_NO_COMMAND = {"all", "tracing"}

#: What a service imports.
OF_A_SERVICE = (
    "reprieve.client.enqueue",
    "reprieve.workers.cancel",
    "reprieve.adapters.protocol",
    "reprieve.workers.app",
)


def names_of(requirements: list[str]) -> set[str]:
    found = (re.match(r"[\w-]+", one) for one in requirements)
    return {one[0].lower() for one in found if one is not None}


def test_each_package_that_an_extra_brings_is_known_with_it() -> None:
    extras, base = PROJECT["optional-dependencies"], names_of(PROJECT["dependencies"])
    assert set(EXTRAS) == set(extras) - OF_NO_COMMAND
    imported_as = packages_distributions()
    for extra, modules in EXTRAS.items():
        brought = names_of(extras[extra]) - base - {"reprieve"}
        installed = {name for names in imported_as.values() for name in names}
        assert {name for module in modules for name in imported_as.get(module, [])} >= brought & installed, extra


def without(extras: Collection[str], program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program where the packages of these extras are not installed."""
    lacking = [module for extra in extras for module in EXTRAS[extra]]
    lacked = f"import sys\nsys.modules.update(dict.fromkeys({lacking!r}))\n"
    return subprocess.run([sys.executable, "-c", lacked + program], capture_output=True, text=True, timeout=60)


def test_what_a_service_imports_is_there_without_any_extra() -> None:
    imports = "\n".join(f"import {module}" for module in OF_A_SERVICE)
    done = without(EXTRAS, f"{imports}\nimport reprieve\nfor name in reprieve.__all__: getattr(reprieve, name)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["ps"], "cli"),
        (["--help"], "cli"),
        (["start", "worker-runs"], "worker"),
        (["exec", "--run", "0", "--server", "http://127.0.0.1", "--", "true"], "worker"),
        (["migrate"], "worker"),
        (["doctor"], "worker"),
        (["api"], "api"),
        (["flower"], "flower"),
        (["up"], "embedded"),
        (["simulate"], "simulation"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_command_whose_extra_is_not_installed_says_which_it_is(arguments: list[str], extra: str) -> None:
    """`embedded` brings `api` and that `worker`: who lacks one lacks what is built on it, and has the rest."""
    order = ["cli", "worker", "api", "flower", "embedded"]
    lacking = [*(order[order.index(extra) :] if extra in order else []), "simulation", "kubernetes"]
    called = f"sys.argv = ['reprieve', *{arguments!r}]\nfrom reprieve.cli.__main__ import main\nmain()"
    done = without(lacking, called)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"reprieve: .* needs \w+, which is not installed: pip install 'reprieve\[{extra}\]'\.\n", done.stderr
    )
