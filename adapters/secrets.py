"""A command's secrets: a run names where its worker finds them; no value is ever part of a run.

A source is `env:VARIABLE`, a variable of the worker's own environment, or `file:/absolute/path`, a file of its host.
No sentence here quotes a value, nor what was given where a source should be: that may be a value.
"""

from collections.abc import Mapping
from pathlib import Path

from reprieve.adapters.masking import MIN_CHARACTERS, patterns_of

#: A command must not see Reprieve's own settings in the worker's environment (addresses with passwords).
OWN_PREFIXES = ("REPRIEVE_", "FLOWER_", "CELERY_")
#: What else our processes use to reach their servers and the archive. A command gets it only if its run names it.
OWN_NAMES = frozenset(
    {
        "PGPASSWORD",
        "PGPASSFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_TOKEN",
        "AZURE_STORAGE_CLIENT_SECRET",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    }
)
#: Bytes that a secret's file may have; the system takes no variable of more than 128 KiB.
MAX_FILE_BYTES = 64 * 1024


class SecretUnavailable(Exception):
    """Raised when a worker does not have a secret, or not one that can be masked; the text says which, and why."""


def is_withheld(variable: str) -> bool:
    """Whether a variable of a worker's environment is its own, and no command inherits it."""
    return variable.startswith(OWN_PREFIXES) or variable in OWN_NAMES


def checked_source(source: str) -> str:
    """`source`, if it is of a form that a worker can resolve; raises `ValueError`."""
    kind, _, place = source.partition(":")
    if kind == "env" and place and "=" not in place:
        if place.startswith(OWN_PREFIXES):
            raise ValueError(
                f"variables that begin with {', '.join(OWN_PREFIXES)} are the worker's own; name another one"
            )
        return source
    if kind == "file" and Path(place).is_absolute():
        return source
    raise ValueError(
        "say where the worker finds the value, as env:VARIABLE or file:/absolute/path; the value itself is never stored"
    )


def resolve(sources: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Each secret's value by its name in the command; raises `SecretUnavailable` for the first that is not there.

    `environment` is the worker's. Of a file, the line ends at its end are left out, as a shell's `$(cat FILE)` does.
    """
    return {name: _checked(name, source, _read(name, source, environment)) for name, source in sources.items()}


def patterns_of_all(secrets: Mapping[str, str]) -> frozenset[bytes]:
    """What to look for, to mask all of them."""
    return frozenset().union(*(patterns_of(value) for value in secrets.values()))


def _read(name: str, source: str, environment: Mapping[str, str]) -> str:
    kind, _, place = source.partition(":")
    if kind == "file":
        return _read_file(name, Path(place))
    if place not in environment:
        raise SecretUnavailable(
            f"its secret {name} comes from the variable {place}, which this worker's environment does not have; "
            "set it there, or name another source"
        )
    return environment[place]


def _read_file(name: str, path: Path) -> str:
    message = f"its secret {name} comes from the file {path}, which"
    try:
        # Asked first: to open a pipe or a device could wait for ever.
        if not path.is_file():
            raise SecretUnavailable(f"{message} is not there on this host, or is no file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SecretUnavailable(f"{message} cannot be read ({error.strerror})") from None
    if len(content) > MAX_FILE_BYTES:
        raise SecretUnavailable(f"{message} is larger than {MAX_FILE_BYTES // 1024} KiB")
    if b"\0" in content:
        raise SecretUnavailable(f"{message} holds a NUL, which no variable can")
    return content.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _checked(name: str, source: str, value: str) -> str:
    if len(value.strip()) < MIN_CHARACTERS:
        raise SecretUnavailable(
            f"its secret {name} from {source} has fewer than {MIN_CHARACTERS} characters; "
            "to mask so short a value would shred the log"
        )
    return value
