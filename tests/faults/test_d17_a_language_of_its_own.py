"""D17: text that goes into a field with a language of its own is escaped for it.

That of a Job's `command`, `args` and `env` is tried on any cluster, in `tests/contract/test_kubernetes_adapter.py`.
"""

import shutil
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from stores import migrate


@pytest.mark.parametrize("folder", ["100%", "%(here)s", "%%", "a b, c;d:e", "é'\"$HOME"])
def test_d17_an_installation_may_be_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    stores = tmp_path / folder / "stores"
    shutil.copytree(Path(migrate.__file__).parent, stores, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate, "__file__", str(stores / "migrate.py"))
    scripts = ScriptDirectory.from_config(migrate._config())
    assert Path(scripts.dir) == stores / "migrations"
    assert scripts.get_current_head() == migrate.head_revision()
