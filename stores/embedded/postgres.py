"""An embedded PostgreSQL 18 server with one database `reprieve`, owned by the user `reprieve`.

That user may create databases (tests want their own) but is no superuser: whoever takes over an application's
connection must not get to run programs on the machine. The superuser has a password that nobody knows; for
maintenance there is `postgres --single` on a stopped server.
"""

import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psycopg2

from reprieve.stores.embedded.accounts import Account, account_for
from reprieve.stores.embedded.address import LOOPBACK, Address
from reprieve.stores.embedded.errors import EmbeddedServerError
from reprieve.stores.embedded.home import DATA_NAME, delete_home, elsewhere, home_of, settle_home, settle_programs
from reprieve.stores.embedded.process import ENVIRONMENT
from reprieve.stores.embedded.server import EmbeddedServer
from reprieve.stores.files import write_private

NAME = "reprieve"
SUPERUSER = "postgres"

#: Seconds for each step of the one-time initialisation, which takes about one.
INITIALISE_SECONDS = 120.0

#: For a small machine. Recovery after a kill reads about `max_wal_size` at most, so that it fits into a start's 30 s.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "512MB",
    "max_wal_size": "512MB",
    "fsync": "on",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server on 127.0.0.1 with its data in `folder`, or as root where an unprivileged user reaches it.

    The folder belongs to this server alone: it is created for us only (mode 0700; as root the server's group may pass
    through it, 0710) and deleted as a whole by `remove`.
    """

    title: ClassVar[str] = "PostgreSQL"
    programs: ClassVar[frozenset[str]] = frozenset({"postgres"})
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": SIGTERM would wait for clients

    def remove(self) -> None:
        """Stop the server and delete its data wherever that went; a copy of the programs in /var/tmp may stay."""
        self.stop()
        if self._pid_file().exists():
            self._release_shared_memory()
        for home in {home_of(self.folder), elsewhere(self.folder)} - {self.folder}:
            delete_home(home)
        super().remove()

    def _url(self, address: Address) -> str:
        return f"postgresql+psycopg2://{NAME}:{address.password}@{LOOPBACK}:{address.port}/{NAME}"

    def _data(self) -> Path:
        return home_of(self.folder) / DATA_NAME

    def _pid_file(self) -> Path:
        return self._data() / "postmaster.pid"

    def _account(self) -> Account:
        return account_for(self._data())

    def _make_folder(self) -> None:
        created = not self.folder.exists()
        super()._make_folder()
        if created:
            self._account().let_through(self.folder)

    def _prepare(self, address: Address) -> None:
        home = settle_home(self.folder, self._account())
        if not (home / DATA_NAME).exists():
            self._initialise(home, address)

    def _command(self, address: Address) -> Sequence[str]:
        settings = SETTINGS | {"port": str(address.port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(settle_programs(self._account()) / "postgres"), "-D", str(self._data()), *options]

    def _answers(self, address: Address) -> bool:
        try:
            psycopg2.connect(
                host=LOOPBACK,
                port=address.port,
                user=NAME,
                password=address.password,
                dbname=NAME,
                connect_timeout=2,
                sslmode="disable",
                gssencmode="disable",
            ).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _release_shared_memory(self) -> None:
        """Recover a killed server once: a megabyte of shared memory stays until PostgreSQL itself clears it away.

        What fails here fails because the data is damaged, and it is about to be deleted.
        """
        account = self._account()
        with suppress(EmbeddedServerError):
            self._take_over()
            _run([str(settle_programs(account) / "postgres"), "--single", "-D", str(self._data()), "postgres"], account)

    def _initialise(self, home: Path, address: Address) -> None:
        """Make the data aside and rename it when complete: a kill on the way leaves something to delete, not to use."""
        for unfinished in home.glob(f"{DATA_NAME}-new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        account = self._account()
        programs = settle_programs(account)
        data = Path(tempfile.mkdtemp(prefix=f"{DATA_NAME}-new-", dir=home))
        account.own(data)
        _run_initdb(programs, data, account)
        _create_database(programs, data, account, address.password)
        data.rename(home / DATA_NAME)


def _run_initdb(programs: Path, data: Path, account: Account) -> None:
    password_file = data.with_name(f"{data.name}-password")
    write_private(password_file, secrets.token_urlsafe(32) + "\n")
    account.own(password_file)
    options = [
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",  # the same order of text on every machine
        "--builtin-locale=C.UTF-8",
    ]
    try:
        _run([str(programs / "initdb"), "-D", str(data), *options], account)
    finally:
        password_file.unlink()


def _create_database(programs: Path, data: Path, account: Account, password: str) -> None:
    """Create user and database before the server ever listens. A failing statement must not repeat the password."""
    quiet = ["-c", "exit_on_error=true", "-c", "log_min_error_statement=panic"]
    statements = f"CREATE ROLE {NAME} LOGIN CREATEDB PASSWORD '{password}';\nCREATE DATABASE {NAME} OWNER {NAME};\n"
    _run([str(programs / "postgres"), "--single", *quiet, "-D", str(data), "postgres"], account, statements)


def _run(command: Sequence[str], account: Account, stdin: str = "") -> None:
    """Run one step of the initialisation; raises EmbeddedServerError with the end of what it said."""
    try:
        subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
            user=account.uid,
            group=account.gid,
            extra_groups=account.extra_groups,
            text=True,
            errors="replace",
            timeout=INITIALISE_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = error.stdout[-2000:]
        raise EmbeddedServerError(f"{command[0]} failed with code {error.returncode}:\n{said}") from error
    except subprocess.TimeoutExpired as error:
        raise EmbeddedServerError(f"{command[0]} did not finish within {INITIALISE_SECONDS:.0f} s") from error
