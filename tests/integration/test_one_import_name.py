"""What is installed has one import name; a service's own `models`, `workers`, `api` and `stores` stay its own."""

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent

import pytest

from reprieve.models.status import Status
from reprieve.workers.bootstrap import Services

ROOT = Path(__file__).parents[2]
LINKS = [path for path in (ROOT / "src" / "reprieve").iterdir() if path.is_symlink()]

#: A project of Django whose packages have the names of our rooms.
SHOP = {
    "shop/__init__.py": "",
    "shop/settings.py": """
        SECRET_KEY = "for this test"
        INSTALLED_APPS = ["models", "workers"]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    """,
    "models/__init__.py": "from stores.shelf import SHELF",
    "workers/__init__.py": "",
    "api/__init__.py": "from models import SHELF",
    "stores/__init__.py": "",
    "stores/shelf.py": "SHELF = 'of the shop'",
    "conftest.py": """
        import os
        os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    """,
    "test_shop.py": """
        import django
        django.setup()
        import api, models, stores, workers
        from pathlib import Path
        from django.apps import apps
        from reprieve import InvalidRequest, cancel_run, enqueue_run

        def test_a_run_is_started_and_cancelled():
            run = enqueue_run("process", {"command": ["true"]}, labels={"shelf": api.SHELF})
            assert cancel_run(run.id).status == "cancelled"

        def test_what_is_the_shops_own_stays_its_own():
            here = Path(__file__).parent
            assert {Path(one.__file__).parent.parent for one in (api, models, stores, workers)} == {here}
            assert {app.path for app in apps.get_app_configs()} == {str(here / "models"), str(here / "workers")}
    """,
}


def build(source: Path, folder: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", *options, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, as they would be published."""
    return build(ROOT, tmp_path_factory.mktemp("built"))


def wheel(folder: Path) -> zipfile.ZipFile:
    (found,) = folder.glob("*.whl")
    return zipfile.ZipFile(found)


def contents(folder: Path) -> dict[str, int]:
    """What a wheel holds, with checksums."""
    with wheel(folder) as archive:
        return {one.filename: one.CRC for one in archive.infolist()}


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is unpacked, with nothing of the repository beside it."""
    folder = tmp_path_factory.mktemp("installed")
    with wheel(built) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_one_top_level_name_and_every_file_of_each_room(built: Path) -> None:
    found = contents(built)
    assert {name.split("/")[0] for name in found} == {"reprieve", f"reprieve-{version('reprieve')}.dist-info"}
    files = {path for link in LINKS for path in (link, *link.rglob("*")) if path.is_file()}
    ours = {f"reprieve/{path.relative_to(ROOT / 'src' / 'reprieve')}" for path in files if path.suffix != ".pyc"}
    assert len(ours) > 100
    assert {name for name in found if name.startswith("reprieve/")} - ours == {
        "reprieve/__init__.py",
        "reprieve/aio.py",
        "reprieve/py.typed",
    }
    assert ours <= set(found)


def test_the_sdist_holds_real_files_alone_and_gives_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (found,) = built.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        assert all(one.isfile() for one in archive.getmembers())
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert {path.name for path in (source / "src").iterdir()} == {"reprieve"}
    assert contents(build(source, tmp_path / "again", "-t", "wheel")) == contents(built)


def test_where_it_is_installed_no_room_can_be_imported_by_its_bare_name(installed: Path, tmp_path: Path) -> None:
    rooms = [link.stem for link in LINKS]
    script = f"""
        import importlib.util, reprieve.cli.main, sys
        assert reprieve.__file__.startswith({str(installed)!r}), reprieve.__file__
        print([name for name in {rooms!r} if name in sys.modules or importlib.util.find_spec(name)])
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("command", [("pytest",), ("python", "-m", "pytest")], ids=" ".join)
def test_a_django_project_with_packages_of_the_same_names_starts_runs(
    command: tuple[str, ...], installed: Path, services: Services, tmp_path: Path
) -> None:
    for name, text in SHOP.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(dedent(text))
    program, *arguments = command
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments, "-q", "-p", "no:randomly", "-W", "ignore"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    (run,) = services.records.newest(limit=10)
    assert (run.status, run.labels) == (Status.CANCELLED, {"shelf": "of the shop"})
