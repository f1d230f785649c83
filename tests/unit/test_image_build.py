"""`make image`, where it cannot build: a sentence that says what would do. tests/containers has the rest."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the program needs of the project, in no git clone."""
    for name in ("deploy/image/build.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def build(project: Path, path: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": path, "HOME": str(project), "GIT_CEILING_DIRECTORIES": str(project.parent)}
    command = [sys.executable, project / "deploy" / "image" / "build.py"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_without_a_clone_there_is_no_commit_to_build(project: Path) -> None:
    done = build(project, os.environ["PATH"])
    assert done.returncode == 2
    assert "is built from a git clone" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_engine_it_says_what_to_install(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
        subprocess.run(["git", *who, *arguments], cwd=project, check=True, capture_output=True)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "All of it")
    programs = tmp_path_factory.mktemp("programs")
    git_itself = shutil.which("git")
    assert git_itself is not None
    (programs / "git").symlink_to(git_itself)
    done = build(project, str(programs))
    assert (done.returncode, done.stderr) == (2, "There is no `docker` here; install one with BuildKit.\n")
