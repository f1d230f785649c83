"""Inside the machine: does what is asked over the serial line, one request at a time, and answers.

A request is a line of base64 that holds a shell script; the answer is one that holds, as JSON, its exit status and
what it wrote. Standard library only; started by a unit.
"""

import base64
import json
import subprocess
import sys
import tty
from pathlib import Path


def main(line: str) -> None:
    with Path(line).open("r+b", buffering=0) as serial:
        tty.setraw(serial.fileno())
        send(serial, {"ready": True})
        rest = b""
        while piece := serial.read(4096):
            *asked, rest = (rest + piece).split(b"\n")
            for one in asked:
                send(serial, answer(base64.b64decode(one).decode()))


def answer(script: str) -> dict[str, object]:
    done = subprocess.run(["/bin/bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return {
        "status": done.returncode,
        "output": done.stdout.decode(errors="replace"),
        "errors": done.stderr.decode(errors="replace"),
    }


def send(serial: object, said: dict[str, object]) -> None:
    data = base64.b64encode(json.dumps(said).encode()) + b"\n"
    while data:
        data = data[serial.write(data) :]  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(sys.argv[1])
