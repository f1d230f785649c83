"""Under which user a server runs: our own, or, since PostgreSQL refuses root, an unprivileged one."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reprieve.stores.embedded.errors import EmbeddedServerError

#: Users that exist on most systems, the better one first; none is ever created.
UNPRIVILEGED_USERS = ("postgres", "nobody")

#: Seconds for a command that only looks (a slow machine that starts several servers at once needs a few).
LOOK_SECONDS = 30.0


@dataclass(frozen=True)
class Account:
    """A user and group to start processes as; None means as ourselves."""

    uid: int | None = None
    gid: int | None = None

    @property
    def extra_groups(self) -> list[int] | None:
        """No further groups of root's for another user; as ourselves nothing changes."""
        return None if self.uid is None else []

    def succeeds(self, command: Sequence[str]) -> bool:
        """Whether a command runs, and ends well, as this user: the one test of permissions that is never wrong."""
        try:
            finished = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                user=self.uid,
                group=self.gid,
                extra_groups=self.extra_groups,
                timeout=LOOK_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return finished.returncode == 0

    def can_enter(self, folder: Path) -> bool:
        """Whether this user gets into the folder, through all the folders above it."""
        return self.succeeds(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)])

    def own(self, path: Path) -> None:
        """Give a path to this user; as ourselves it is ours already."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def let_through(self, folder: Path) -> None:
        """Let this user traverse our folder to what it owns inside, without reading or changing the folder."""
        if self.gid is not None:
            os.chown(folder, 0, self.gid, follow_symlinks=False)
            folder.chmod(0o710)


def are_we_root() -> bool:
    """Whether this process has root's rights over files and users."""
    return os.geteuid() == 0


def account_for(data: Path) -> Account:
    """The account for a server that refuses root: ourselves, or as root the owner of existing data, or a known user."""
    if not are_we_root():
        return Account()
    if data.is_dir() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedServerError(
        f"PostgreSQL refuses to run as root, and none of the users {', '.join(UNPRIVILEGED_USERS)} exists: "
        "create one of them, or run this as another user than root"
    )
