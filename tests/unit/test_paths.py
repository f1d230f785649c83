"""Paths that come from outside stay inside their folder."""

from pathlib import Path

import pytest

from reprieve.models.errors import OutsideRoot
from reprieve.models.paths import inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "run" / "1").mkdir(parents=True)
    (tmp_path / "root-beside").mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "run")
    return root


@pytest.mark.parametrize("relative", ["run/1", "run/../run/1", "not/there/yet", "in/1", "./run"])
def test_a_path_inside_is_given_resolved(root: Path, relative: str) -> None:
    assert inside(root, relative) == (root / relative).resolve()


@pytest.mark.parametrize(
    "relative",
    ["..", "../root-beside", "run/../../root-beside", "/etc/passwd", "out", "out/root-beside", "", ".", "run/.."],
)
def test_a_path_that_leaves_or_is_the_folder_is_refused_by_name(root: Path, relative: str) -> None:
    with pytest.raises(OutsideRoot) as refused:
        inside(root, relative)
    assert repr(relative) in str(refused.value)


def test_a_root_behind_a_symbolic_link_is_followed_too(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert inside(tmp_path / "alias", "run") == root / "run"
