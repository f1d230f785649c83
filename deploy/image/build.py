"""`make image`: build the image, with the labels of its commit, and the same id whenever that commit is built.

    build.py [--tag NAME]… [what else `docker build` takes]

Its layers are the same already (`assemble.py`). What is left is the time that the engine notes down in the image's
description: engines since Docker 23 take SOURCE_DATE_EPOCH for that; what an older one noted is replaced here.
"""

import argparse
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import dropwhile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: What the last stage of the Dockerfile begins with; the steps before it are the base's.
FIRST_STEP = "COPY /out/system/"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="make image", allow_abbrev=False, description="Build the image of the commit that is here."
    )
    parser.add_argument("--tag", "-t", action="append", metavar="NAME", help="reprieve and reprieve:VERSION by default")
    options, more = parser.parse_known_args(arguments)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = options.tag or ["reprieve", f"reprieve:{version}"]
    try:
        commit, seconds = ask("git", "log", "-1", "--format=%H %ct").split()
        changed = ask("git", "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        print("The image is built from a git clone: its commit says what it is, and when it was made.", file=sys.stderr)
        return 2
    if changed:
        print("There are changes that are not committed; the label of the revision ends in -changed.", file=sys.stderr)
    created = datetime.fromtimestamp(int(seconds), UTC)
    labels = {
        "version": version,
        "revision": commit + ("-changed" if changed else ""),
        "created": in_words(created),
    }
    command = ["docker", "build", "--build-arg", f"SOURCE_DATE_EPOCH={seconds}", "--tag", tags[0]]
    for name, value in labels.items():
        command += ["--label", f"org.opencontainers.image.{name}={value}"]
    try:
        # Without what a newer engine adds of itself beside the image, which holds the time again.
        environment = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        status = subprocess.run([*command, *more, "."], cwd=ROOT, env=environment, check=False).returncode
        if status != 0:
            return status
        settle(tags[0], created)
        for tag in tags[1:]:
            ask("docker", "tag", tags[0], tag)
        told = json.loads(ask("docker", "image", "inspect", tags[0]))[0]
    except FileNotFoundError:
        print("There is no `docker` here; install one with BuildKit.", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(
            f"The image is built, but `{shlex.join(error.cmd)}` fails, so its id is only this build's.", file=sys.stderr
        )
        return 1
    print(f"{', '.join(tags)}: {told['Id']}, {told['Size'] / 1e6:.0f} MB")
    return 0


def settle(tag: str, created: datetime) -> None:
    """Have the image say that it was created then, if it says otherwise. Its layers stay as they are."""
    told = json.loads(ask("docker", "image", "inspect", tag))[0]
    if told["Created"] == in_words(created):
        return
    manifest, config = description(tag)
    config["created"] = in_words(created)
    for step in dropwhile(lambda step: FIRST_STEP not in step.get("created_by", ""), config["history"]):
        step["created"] = in_words(created)
    text = json.dumps(config, sort_keys=True).encode()
    manifest["Config"] = f"{hashlib.sha256(text).hexdigest()}.json"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        # The layers need not be in it: an engine looks whether it has them before it reads them.
        for name, content in ((manifest["Config"], text), ("manifest.json", json.dumps([manifest]).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    subprocess.run(["docker", "load", "--quiet"], input=packed.getvalue(), check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["docker", "image", "rm", told["Id"]], check=False, capture_output=True)


def description(tag: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The image's manifest and configuration, as the engine writes them; no engine tells the second otherwise."""
    found: dict[str, Any] = {}
    with subprocess.Popen(["docker", "image", "save", tag], stdout=subprocess.PIPE) as saving:
        with tarfile.open(fileobj=saving.stdout, mode="r|") as archive:
            for entry in archive:
                if entry.name.endswith(".json") and "/" not in entry.name:
                    content = archive.extractfile(entry)
                    assert content is not None
                    found[entry.name] = json.loads(content.read())
    [manifest] = found["manifest.json"]
    return manifest, found[manifest["Config"]]


def in_words(time: datetime) -> str:
    """As engines write it, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def ask(*command: str) -> str:
    """What the command prints. Raises `CalledProcessError`."""
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
