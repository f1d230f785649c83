"""D17: text that goes into a field with a language of its own is escaped for it.

That of a Job's `command`, `args` and `env` is tried on any cluster, in `tests/contract/test_kubernetes_adapter.py`.
"""

import shlex
import shutil
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from supervisor.options import ServerOptions

from reprieve.cli.stack import Stack
from reprieve.stores import migrate
from reprieve.workers.settings import Settings

pytestmark = pytest.mark.row("D17")

FOLDERS = ["100%", "%(here)s", "%%", "a b, c ;d:e", "é'\"$HOME"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_installation_may_be_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    stores = tmp_path / folder / "stores"
    shutil.copytree(Path(migrate.__file__).parent, stores, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate, "__file__", str(stores / "migrate.py"))
    scripts = ScriptDirectory.from_config(migrate._config())
    assert Path(scripts.dir) == stores / "migrations"
    assert scripts.get_current_head() == migrate.head_revision()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_data_folder_of_a_stack_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    data = tmp_path / folder
    (data / "logs").mkdir(parents=True)
    monkeypatch.chdir(data)
    roles = {"one": ("echo", "runs@%h")}
    stack = Stack(Settings(data_dir=data), flower_password="", roles=roles)
    (data / "supervisord.conf").write_text(stack._configuration())
    options = ServerOptions()
    options.realize(args=["-c", "supervisord.conf"])
    (program,) = (process for group in options.process_group_configs for process in group.process_configs)
    assert shlex.split(program.command) == list(roles["one"])
    assert Path(program.stdout_logfile).resolve() == (data / "logs" / "one.log").resolve()
