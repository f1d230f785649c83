"""`reprieve healthcheck`: does the process of this container turn, or answer? For HEALTHCHECKs and probes.

It is started every half minute in every container, so it imports neither Celery nor our settings, asks no broker and no
database, and takes what it must know from the file that the process itself keeps (`models.pulse`).
"""

import time
from collections.abc import Mapping

from reprieve.models.pulse import STILL, is_turning

#: Seconds to wait for an answer; less than engines and Kubernetes wait for this command in our files.
PATIENCE = 3.0


def examine(environment: Mapping[str, str], now: float | None = None) -> tuple[bool, str]:
    """Whether all is well, and the sentence for it."""
    path = environment.get("REPRIEVE_PULSE_FILE")
    if not path:
        return False, "REPRIEVE_PULSE_FILE is not set; set it for the process that is looked at, and here."
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - to import pathlib would be half the work
            address = file.read().strip()
            age = (time.time() if now is None else now) - _modified(file.fileno())
    except FileNotFoundError:
        return False, f"{path} is not there: no role has started yet, or its folder cannot be written to."
    except (OSError, ValueError) as error:
        return False, f"{path} cannot be read ({error})."
    if address:
        return _ask(address)
    if is_turning(age):
        return True, f"It turned {max(age, 0):.0f} s ago."
    return False, f"{path} was not touched within {STILL} s; its age is {age:.0f} s. Does its broker answer?"


def _modified(descriptor: int) -> float:
    from os import fstat

    return fstat(descriptor).st_mtime


def _ask(address: str) -> tuple[bool, str]:
    import ssl
    from contextlib import closing
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    try:
        url = urlsplit(address)
        if url.scheme == "https":
            # Its certificate is for those who come from outside by a name.
            tls = ssl._create_unverified_context()  # noqa: S323
            connection: HTTPConnection = HTTPSConnection(url.netloc, timeout=PATIENCE, context=tls)
        else:
            connection = HTTPConnection(url.netloc, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", url.path)
            status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        return False, f"{address} does not answer ({type(error).__name__}: {error})."
    return status < 400, f"{address} answers {status}."
