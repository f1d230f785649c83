"""The images that our files start from, made from Debian's packages where no registry gives them.

They stand in for the official ones: the same names, programs in the same places, and entrypoints that honour the same
variables. What they cannot show is how large the official ones are.
"""

import subprocess
import tempfile
from pathlib import Path

from tests.containers.engine import Engine

FOLDER = Path(__file__).parent / "bases"
DEBIAN = "reprieve-test/debian"
#: Each is a Dockerfile in `bases/`, on top of a Debian of our own.
BASES = {"python:3.11-slim": "python", "postgres:18": "postgres", "redis:7": "redis"}
#: What clients need where a machine's way out has an authority of its own.
OF_THIS_MACHINE = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")


def provide(engine: Engine) -> dict[str, bool]:
    """Have all bases there; returns of each whether it is a stand-in."""
    return {name: _provide(engine, name, folder) for name, folder in BASES.items()}


def _provide(engine: Engine, name: str, folder: str) -> bool:
    if not engine.has_image(name) and engine.docker("pull", "--quiet", name, check=False, timeout=300).returncode != 0:
        if not engine.has_image(DEBIAN):
            _debian(engine)
        engine.docker("build", "--network=host", "--tag", name, "--label", "reprieve.stand-in=yes", FOLDER / folder)
    return "reprieve.stand-in" in (engine.inspect(name)["Config"].get("Labels") or {})


def _debian(engine: Engine) -> None:
    """The smallest Debian, without what only a machine needs."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        wanted = ["--variant=minbase", "--include=ca-certificates", "bookworm", str(root)]
        subprocess.run(["debootstrap", *wanted], check=True, capture_output=True, timeout=900)
        for name in OF_THIS_MACHINE:
            if Path(name).exists():
                (root / name[1:]).write_bytes(Path(name).read_bytes())
        for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
            subprocess.run(["find", str(root / name), "-type", "f", "-delete"], check=True)
        tar = subprocess.Popen(["tar", "--directory", str(root), "--create", "."], stdout=subprocess.PIPE)
        engine.docker("import", "-", DEBIAN, stdin=tar.stdout)
        assert tar.wait() == 0
