"""The secrets of a host, as its worker of runs gets them: in an environment file, and not by systemd's credentials."""

import subprocess
from pathlib import Path

import pytest

from reprieve.workers.environment import with_secrets_from_files

SCRIPT = Path(__file__).parents[2] / "deploy" / "systemd" / "reprieve-credentials"


def write(folder: Path, secrets: dict[str, bytes]) -> "subprocess.CompletedProcess[str]":
    """Into `folder`/written, from files of these names and contents."""
    given = folder / "given"
    given.mkdir()
    for name, content in secrets.items():
        (given / name).write_bytes(content)
    return subprocess.run(["sh", SCRIPT, given, folder / "written"], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("content", [b"one", b"one\n", b"one\r\n", b"one\n\n", b"one\r", b"one\ntwo\r\n", b" one \t\n"])
def test_all_roles_take_the_same_of_a_file(content: bytes, tmp_path: Path) -> None:
    assert write(tmp_path, {"ONE": content}).returncode == 0
    taken = with_secrets_from_files({"one_file": str(tmp_path / "given" / "ONE")}, ["one_file"])["one"]
    assert (tmp_path / "written").read_bytes() == f'REPRIEVE_ONE="{taken}"\n'.encode()


@pytest.mark.parametrize("name", ["DATABASE_PASSWORD~", "DATABASE_PASSWORD.dpkg-old", "#DATABASE_PASSWORD#", "é"])
def test_a_file_that_an_editor_left_is_named_and_its_secret_is_not_given_to_the_journal(
    name: str, tmp_path: Path
) -> None:
    """systemd prints an assignment that it does not take, with the value."""
    done = write(tmp_path, {"DATABASE_PASSWORD": b"new\n", name: b"old\n"})
    assert (tmp_path / "written").read_text() == 'REPRIEVE_DATABASE_PASSWORD="new"\n'
    assert name in done.stderr
    assert "old\n" not in done.stdout + done.stderr


def test_a_secret_that_is_not_text_is_refused_by_its_file_and_the_others_are_not_lost_without_a_word(
    tmp_path: Path,
) -> None:
    """systemd prints the value, takes nothing of the whole file, and starts the worker without any secret."""
    done = write(tmp_path, {"A": b"well", "B": b"\xff\xfe\n"})
    assert done.returncode == 1
    assert f"{tmp_path}/given/B is not UTF-8 text" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "given"]
