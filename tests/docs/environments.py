"""Environments that hold what a page says was installed, and nothing of the repository's own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder of its own."""

    folder: Path

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    def variables(self) -> dict[str, str]:
        """Those of a shell in which it was activated."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return kept | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(self.folder)}


def build_wheel(folder: Path) -> Path:
    """Our wheel, as it would be published."""
    _do(UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder: Path, wheel: Path, extras: str = "", *more: str, resolution: str = "highest") -> Environment:
    """A new environment with the wheel and these extras, and with pip, from the index.

    `resolution` is uv's: `lowest-direct` has of each package that we name the oldest version that we say will do.
    """
    _do(UV, "venv", "--quiet", "--seed", "--python", sys.executable, folder)
    asked = f"reprieve{f'[{extras}]' if extras else ''} @ {wheel.as_uri()}"
    python = folder / "bin" / "python"
    _do(UV, "pip", "install", "--quiet", "--python", python, "--resolution", resolution, asked, *more)
    return Environment(folder)


def _do(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
