"""What runs on a data folder: where its servers are, and its time scale. Written by `reprieve up`, read by commands."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from reprieve.stores.files import write_private

_FILE = "addresses.json"
_SCALE = "time_scale"


def write_addresses(data_dir: Path, database_url: str | None, redis_url: str | None, time_scale: int = 1) -> None:
    """Remember the addresses of the servers that run; they hold passwords, so the file is the owner's alone."""
    addresses = {"database_url": database_url, "redis_url": redis_url, _SCALE: time_scale}
    write_private(data_dir / _FILE, json.dumps({name: value for name, value in addresses.items() if value}))


def read_addresses(data_dir: Path) -> Mapping[str, SecretStr]:
    """Setting names and addresses; empty when nothing runs here."""
    return {name: SecretStr(value) for name, value in _read(data_dir).items() if name != _SCALE}


def read_time_scale(data_dir: Path, database_url: str) -> int | None:
    """The time scale of what runs here on that database; None when nothing does."""
    addresses = _read(data_dir)
    return addresses.get(_SCALE) if addresses.get("database_url") == database_url else None


def _read(data_dir: Path) -> dict[str, Any]:
    try:
        addresses: dict[str, Any] = json.loads((data_dir / _FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return addresses


def forget_addresses(data_dir: Path) -> None:
    (data_dir / _FILE).unlink(missing_ok=True)
