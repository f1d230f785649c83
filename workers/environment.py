"""Where settings are read from: the environment and, behind it, systemd's credentials and the file `.env`.

What is wrong is a `SettingsError`.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from reprieve.models.errors import SettingsError

PREFIX = "REPRIEVE_"

#: What Kubernetes sets in every container for a service that is called `reprieve-…`: names, and values of `…_PORT`.
_OF_A_SERVICE = re.compile(r"_SERVICE(_|$)|_PORT_")
_OF_ITS_PORT = re.compile(r"(tcp|udp|sctp)://")

#: Where settings may stand beside the environment, which goes before it.
ENV_FILE = Path(".env")

#: Names with our prefix that are not settings: of the environment of a run's work, and of `reprieve exec`.
OWN_NAMES = frozenset({"REPRIEVE_RUN_ID", "REPRIEVE_ATTEMPT", "REPRIEVE_RUN_TOKEN"})

#: `REPRIEVE_…_FILE` of a secret names a file that holds it.
FILE = "_file"

#: Where systemd puts what a unit is given with `LoadCredential=`.
CREDENTIALS = "CREDENTIALS_DIRECTORY"


def given() -> dict[str, str]:
    """What has our prefix, or a misspelt one, and is not empty, by its name in capitals."""
    return _of_a_file(ENV_FILE) | _of_credentials() | _ours(os.environ)


def _of_credentials() -> dict[str, str]:
    """Each credential with our prefix, as if `REPRIEVE_…_FILE` named it."""
    folder = os.environ.get(CREDENTIALS)
    if not folder:
        return {}
    try:
        files = sorted(Path(folder).iterdir())
    except FileNotFoundError:  # That of a unit which has ended, and left us behind.
        return {}
    except OSError as error:
        raise SettingsError(f"{CREDENTIALS} names a folder that cannot be read ({error.strerror}): {folder}.") from None
    return {(file.name + FILE).upper(): str(file) for file in files if file.name.upper().startswith(PREFIX)}


def _ours(values: Mapping[str, str | None]) -> dict[str, str]:
    """Those with our prefix, in capitals, and without the variables that Kubernetes sets for services."""
    found = {}
    for name, value in values.items():
        of_a_service = _OF_A_SERVICE.search(name) or (value and _OF_ITS_PORT.match(value) and name.endswith("_PORT"))
        if not value or of_a_service or not _is_meant_for_us(name.upper()):
            continue
        if not value.isascii() and _is_not_text(value):
            raise SettingsError(f"{name} is not UTF-8 text.")
        found[name.upper()] = value
    return found


def _is_meant_for_us(name: str) -> bool:
    prefix = name.partition("_")[0]
    # XREPRIEVE_… is somebody else's; REPREIVE_… is ours, misspelt.
    misspelt = "REPRIEVE" not in prefix and bool(difflib.get_close_matches(prefix, ["REPRIEVE"], 1, 0.85))
    return name.startswith(PREFIX) or misspelt


def _is_not_text(value: str) -> bool:
    """Whether it holds bytes that are not UTF-8, which Python represents as lone surrogates."""
    return any("\ud800" <= character <= "\udfff" for character in value)


def _of_a_file(file: Path) -> dict[str, str]:
    """What the file gives, if there is one. A folder of that name is not one: some people name a virtualenv so."""
    try:
        if file.is_dir() or not file.exists():
            return {}
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(f"{file.absolute()} is not UTF-8 text; save it as that, or remove it.") from None
    except OSError as error:
        raise SettingsError(f"{file.absolute()} cannot be read ({error.strerror}); it holds settings.") from None
    for line in parse_stream(StringIO(text)):
        if PREFIX in line.original.string and (line.error or (line.key and line.value is None)):
            raise SettingsError(f"{file.absolute()}, line {line.original.line}, is not of the form NAME=VALUE.")
    return _ours(dotenv_values(stream=StringIO(text), interpolate=False))


def refuse_misspelt(names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse near misses, which are mistakes; other names may belong to anything."""
    for name in names:
        if name not in known and (near := difflib.get_close_matches(name, known, 1, 0.85)):
            raise SettingsError(f"{name} is no setting; did you mean {near[0]}?")


def with_secrets_from_files(given: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Replace the name of each file by its content, without the newline that an editor puts at the end."""
    whole = dict(given)
    for name in names:
        file = whole.pop(name, None)
        if file is None:
            continue
        setting = (PREFIX + name).upper()
        field = name.removesuffix(FILE)
        if field in given:
            raise SettingsError(f"{setting} and {(PREFIX + field).upper()} are both set; leave one out.")
        try:
            whole[field] = Path(file).read_text(encoding="utf-8").removesuffix("\n")
        except UnicodeDecodeError:
            raise SettingsError(f"{setting} names a file that is not UTF-8 text: {file}.") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no path"
            raise SettingsError(f"{setting} names a file that cannot be read ({why}): {file}.") from None
        if "\0" in whole[field]:
            raise SettingsError(f"{setting} names a file with a NUL in it, which no server takes: {file}.")
        if not whole[field]:
            raise SettingsError(f"{setting} names a file that is empty: {file}.")
    return whole
