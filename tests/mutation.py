"""`make mutation`: change the decisions in models/ in one place at a time, and see whether a test notices.

mutmut works on a copy of the tree in a temporary folder, in which the links of `src/reprieve` are real files. What is
changed, and which tests have to notice, is `[tool.mutmut]` in pyproject.toml. The target fails where fewer than 90 % of
the changes are noticed, and where one survives that `mutation.toml` does not name with the reason why it may.

python -m tests.mutation [-j PROCESSES]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
KNOWN = Path(__file__).with_suffix(".toml")
#: The share of the changes that tests must notice.
LEAST = 0.9
#: What mutmut says of a change that was noticed; one that never comes to its end was, by the time limit.
NOTICED = ("killed", "timeout", "segfault", "suspicious")


class Survivor(NamedTuple):
    """A change that no test noticed: in which function, and what was written there instead."""

    where: str
    instead: str


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        _mutmut(copy, "run", "--max-children", str(parser.parse_args().j), show=True)
        said = dict(_said(copy))
        survivors = {name: _survivor(copy, name) for name, what in said.items() if what not in NOTICED}
    return _judge(len(said), survivors)


def _mutmut(copy: Path, *arguments: str, show: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=copy, check=True, text=True, stdout=None if show else -1
    )
    return done.stdout or ""


def _said(copy: Path) -> Iterator[tuple[str, str]]:
    for line in _mutmut(copy, "results", "--all", "true").splitlines():
        name, found, what = line.strip().partition(": ")
        if found:
            yield name, what


def _survivor(copy: Path, name: str) -> Survivor:
    where = re.sub(r"\.x[_ǁ]", ".", name.removeprefix("reprieve.models.").partition("__mutmut_")[0])
    changes = _mutmut(copy, "show", name).splitlines()
    added = [line[1:].strip() for line in changes if line.startswith("+") and not line.startswith("+++")]
    removed = [line[1:].strip() for line in changes if line.startswith("-") and not line.startswith("---")]
    return Survivor(where.replace("ǁ", "."), " ".join(added) or f"without {' '.join(removed)}")


def _judge(total: int, survivors: dict[str, Survivor]) -> int:
    """Print what survived, and why it may; returns the exit status."""
    known = {Survivor(one["where"], one["instead"]): one["why"] for one in tomllib.loads(KNOWN.read_text())["survivor"]}
    noticed = total - len(survivors)
    unknown = {name: one for name, one in survivors.items() if one not in known}
    for one in sorted(set(survivors.values()) & known.keys()):
        print(f"{one.where}: {one.instead}\n    {known[one]}")
    for one in sorted(known.keys() - set(survivors.values())):
        print(f"{one.where}: {one.instead}\n    is in {KNOWN.name}, and a test notices it: remove it there.")
    for name, one in sorted(unknown.items()):
        print(f"{one.where}: {one.instead}\n    NO TEST NOTICES THIS ({name})")
    print(f"{noticed} of {total} changes are noticed ({noticed / total:.1%}); {len(unknown)} survive without a reason.")
    return 1 if unknown or noticed < LEAST * total else 0


if __name__ == "__main__":
    sys.exit(main())
