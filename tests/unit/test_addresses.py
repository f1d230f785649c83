"""The file in which `reprieve up` leaves its servers' addresses, passwords and all."""

import stat
from pathlib import Path

import pytest

from reprieve.stores.addresses import forget_addresses, read_addresses, write_addresses

FILE = "addresses.json"


def secrets(folder: Path) -> dict[str, str]:
    return {name: url.get_secret_value() for name, url in read_addresses(folder).items()}


def mode(folder: Path) -> int:
    return stat.S_IMODE((folder / FILE).stat().st_mode)


@pytest.mark.parametrize(
    ("database", "redis", "read"),
    [
        ("postgresql://a", "redis://b", {"database_url": "postgresql://a", "redis_url": "redis://b"}),
        ("postgresql://a", None, {"database_url": "postgresql://a"}),
        (None, None, {}),
    ],
)
def test_what_was_written_is_read_and_a_server_that_is_not_ours_is_left_out(
    tmp_path: Path, database: str | None, redis: str | None, read: dict[str, str]
) -> None:
    write_addresses(tmp_path, database, redis)
    assert secrets(tmp_path) == read


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    write_addresses(tmp_path, "postgresql://a", None)
    assert mode(tmp_path) == 0o600


def test_a_file_that_others_could_read_becomes_the_owners_alone(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    (tmp_path / FILE).chmod(0o644)
    write_addresses(tmp_path, "postgresql://a", None)
    assert mode(tmp_path) == 0o600


def test_a_shorter_address_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    write_addresses(tmp_path, "postgresql://" + "long" * 100, "redis://b")
    write_addresses(tmp_path, None, "redis://b")
    assert secrets(tmp_path) == {"redis_url": "redis://b"}


@pytest.mark.parametrize("folder", ["", "not-there", "a-file"])
def test_where_nothing_runs_there_are_no_addresses(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").touch()
    assert secrets(tmp_path / folder) == {}


def test_forgotten_addresses_are_gone_and_forgetting_again_is_no_error(tmp_path: Path) -> None:
    write_addresses(tmp_path, "postgresql://a", None)
    forget_addresses(tmp_path)
    forget_addresses(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_address_does_not_show_its_password(tmp_path: Path) -> None:
    write_addresses(tmp_path, "postgresql://me:hunter2@h", None)
    assert "hunter2" not in repr(read_addresses(tmp_path))
