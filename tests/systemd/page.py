"""The commands of docs/systemd.md, so that what the page says is what is tested."""

import re

from tests.systemd.machine import ROOT

PAGE = (ROOT / "docs" / "systemd.md").read_text()


def commands(heading: str) -> str:
    """What the page says to do below a heading, as one script."""
    section = re.split(rf"^## {re.escape(heading)}$", PAGE, flags=re.M)[1].split("\n## ")[0]
    lines = [line for block in re.findall(r"```console\n(.*?)```", section, re.S) for line in block.splitlines()]
    return "\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
