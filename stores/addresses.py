"""Where the embedded servers of a data folder are: written by `reprieve up`, read by every other command."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from stores.embedded.address import write_private

_FILE = "addresses.json"


def write_addresses(data_dir: Path, database_url: str | None, redis_url: str | None) -> None:
    """Remember the addresses of the servers that run; they hold passwords, so the file is the owner's alone."""
    urls = {"database_url": database_url, "redis_url": redis_url}
    write_private(data_dir / _FILE, json.dumps({name: url for name, url in urls.items() if url}))


def read_addresses(data_dir: Path) -> Mapping[str, SecretStr]:
    """Setting names and addresses; empty when nothing runs here."""
    try:
        return {name: SecretStr(url) for name, url in json.loads((data_dir / _FILE).read_text()).items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def forget_addresses(data_dir: Path) -> None:
    (data_dir / _FILE).unlink(missing_ok=True)
