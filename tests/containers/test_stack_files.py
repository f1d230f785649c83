"""What `docker-compose.yml` says of a stack, asked of a real one: who it runs as, what it shows, what is in its way."""

import socket
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from reprieve.stores.embedded.address import choose_port
from tests.containers import stack as stacks
from tests.containers.engine import Engine
from tests.containers.stack import ROLES, SERVERS, Stack, start, until_ended, wrong

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

#: A line end behind it is an editor's, and no part of it.
ODD = 'it\'s "$HOME" $$ `x` \\ %41 päß#'


def test_any_password_opens_it_nothing_shows_one_nothing_is_root_and_doctor_is_content(stack: Stack) -> None:
    secrets = stack.folder / "secrets"
    secrets.mkdir()
    for name in ("database_password", "redis_password", "flower_password"):
        (secrets / name).write_text(f"{ODD}{name}\n")
    made = stack.script("secrets.sh").stdout
    assert "database_password is there already" in made
    assert (secrets / "database_password").read_text() == f"{ODD}database_password\n"
    assert secrets.stat().st_mode & 0o777 == 0o700
    stack.up()

    told = stack.compose("config").stdout
    for service in (*SERVERS, *ROLES):
        [container] = stack.containers(service)
        told += stack.engine.docker("inspect", container).stdout + stack.engine.docker("top", container).stdout
        found = stack.inspect(container)
        status = Path(f"/proc/{found['State']['Pid']}/status").read_text().splitlines()
        values = {name: value.split() for name, _, value in (line.partition(":") for line in status)}
        assert "0" not in values["Uid"], service
        assert (values["CapBnd"], values["NoNewPrivs"]) == (["0000000000000000"], ["1"]), service
        host = found["HostConfig"]
        assert (host["ReadonlyRootfs"], host["RestartPolicy"]["Name"]) == (True, "unless-stopped"), service
        assert host["LogConfig"]["Config"]["max-size"] == "10m", service
        assert all("size=" in options for options in host["Tmpfs"].values()), service
        volumes = [mount["Name"] for mount in found["Mounts"] if mount["Type"] == "volume"]
        assert all(name.startswith(stack.project) for name in volumes), f"{service} would leave one behind"
    for file in secrets.iterdir():
        value = file.read_text().strip()
        assert value.removeprefix("admin=") not in told, file.name
    assert "it's" not in told

    with stack.client() as client:
        run = start(client, lines=3)
    until_ended(stack, [run])
    for role in ROLES:
        done = stack.execute(role, "reprieve", "doctor", check=False)
        assert done.returncode == 0, f"{role}: {done.stdout}{done.stderr}"
    assert "flower" in stack.execute("flower", "reprieve", "doctor").stdout
    assert "Flower" not in stack.execute("worker-logs", "reprieve", "doctor").stdout
    assert wrong(stack, [run]) == []


def test_a_full_tmp_ends_no_worker_and_none_of_its_other_runs(engine: Engine, image: str, tmp_path: Path) -> None:
    with stacks.stack(engine, tmp_path) as stack:
        stack.set(TMP_SIZE="2m")
        stack.script("secrets.sh")
        stack.up()
        with stack.client() as client:
            other = start(client, lines=30)
            full = client.enqueue_run("process", {"command": ["dd", "if=/dev/zero", "of=/tmp/full", "bs=64k"]})
            assert client.wait_for(full, timeout=60).error_code == "exit_status"
            another = start(client, lines=3)
            detached = start(client, "detached", lines=3)
        until_ended(stack, [other, another, detached])
        assert stack.is_green(["worker-runs"])
        assert wrong(stack, [other, another, detached]) == []


def test_the_tables_are_made_once_the_database_is_there_however_long_its_first_start_takes(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.sh"
    override = {"postgres": {"volumes": [f"{slow}:/docker-entrypoint-initdb.d/slow.sh:ro"]}}
    with stacks.stack(engine, tmp_path, override=override) as stack:
        slow.write_text("sleep 15\n")
        slow.chmod(0o755)
        stack.script("secrets.sh")
        assert stack.up() > 15
        [migrate] = stack.containers("migrate", also_ended=True)
        assert stack.inspect(migrate)["State"]["ExitCode"] == 0
        assert "waiting" not in stack.compose("logs", "migrate").stdout


def test_a_second_project_on_the_host_has_its_own_of_everything_and_a_port_that_is_taken_is_named(
    stack: Stack, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stack.script("secrets.sh")
    stack.up()
    with stacks.stack(engine, tmp_path_factory.mktemp("second")) as second, socket.socket() as taken:
        taken.bind(("127.0.0.1", port := choose_port()))
        taken.listen()
        second.set(API_PORT=port)
        second.script("secrets.sh")
        done = second.compose("up", "--detach", "--no-build", check=False)
        assert done.returncode != 0
        assert str(port) in done.stderr
        second.set(API_PORT=second.ports["API_PORT"])
        second.up()
        with second.client() as client:
            run = start(client, lines=3)
            until_ended(second, [run])
        with stack.client() as client:
            assert [found.id for found in client.list_runs()] == []
        assert stack.is_green()


# -- secrets


def test_what_is_missing_is_said_before_anything_is_started(stack: Stack) -> None:
    assert stack.compose("build").returncode == 0
    done = stack.compose("up", "--detach", "--no-build", check=False)
    assert done.returncode != 0
    assert "secrets/" in done.stderr
    upgrade = stack.script("upgrade.sh", check=False)
    assert upgrade.returncode == 1
    assert "Nothing of this project runs here" in upgrade.stderr


def test_a_secret_that_is_there_stays_and_one_that_a_database_knows_is_not_made_anew(stack: Stack) -> None:
    stack.script("secrets.sh")
    secrets = stack.folder / "secrets"
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    assert set(before) == set(yaml.safe_load((stack.folder / "docker-compose.yml").read_text())["secrets"])
    assert len(set(before.values())) == len(before)
    stack.script("secrets.sh")
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before
    stack.compose("up", "--detach", "--no-build", "postgres")
    (secrets / "database_password").unlink()
    refused = stack.script("secrets.sh", check=False)
    assert refused.returncode == 1
    assert f"the volume {stack.project}_postgres is, whose password" in refused.stderr
    assert not (secrets / "database_password").exists()


def test_a_folder_or_an_empty_line_in_a_secrets_place_is_no_secret(stack: Stack) -> None:
    secrets = stack.folder / "secrets"
    (secrets / "api_tokens").mkdir(parents=True)
    (secrets / "redis_password").write_text("\r\n")
    refused = stack.script("secrets.sh", check=False)
    assert refused.returncode == 1
    assert "secrets/api_tokens is a folder" in refused.stderr
    (secrets / "api_tokens").rmdir()
    stack.script("secrets.sh")
    assert stack.token
    assert (secrets / "redis_password").read_text().strip()


def test_secrets_belong_to_the_files_beside_the_script_however_it_is_called(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("bin") / "a" / "b" / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to(stack.folder / "deploy" / "compose" / "secrets.sh")
    stack.set(SECRETS='"~/of a home"')
    home = link.parents[2] / "home"
    home.mkdir()
    environment = {**stack.engine.environment, "HOME": str(home), "CDPATH": "/tmp:/"}
    subprocess.run([link], cwd="/", env=environment, check=True, stdout=subprocess.DEVNULL)
    assert (home / "of a home" / "api_tokens").exists()
    assert not (link.parents[2] / "secrets").exists()


def test_no_secret_is_made_where_compose_does_not_say_which_are_in_use(stack: Stack, engine: Engine) -> None:
    stack.set(COMPOSE_PROJECT_NAME=(number := str(uuid4().int % 10**12)))
    engine.docker("volume", "create", f"{number}_postgres")
    try:
        refused = stack.script("secrets.sh", check=False)
    finally:
        engine.docker("volume", "rm", f"{number}_postgres")
    assert refused.returncode == 1
    assert f"the volume {number}_postgres is" in refused.stderr
    (stack.folder / "docker-compose.override.yml").write_text("services: [")
    refused = stack.script("secrets.sh", check=False)
    assert refused.returncode == 1
    assert "Nothing was made" in refused.stderr
    assert list((stack.folder / "secrets").iterdir()) == []
    (stack.folder / "docker-compose.override.yml").unlink()


def test_a_wrong_argument_is_refused_with_what_would_do(stack: Stack) -> None:
    for script, told in (("secrets.sh", "usage: "), ("upgrade.sh", "There is no argument --fast.")):
        done = stack.script(script, "--fast", check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr


def test_the_scripts_are_what_a_shell_takes() -> None:
    folder = stacks.ROOT / "deploy" / "compose"
    assert subprocess.run(["sh", "-n", folder / "secrets.sh"], check=False).returncode == 0
    assert subprocess.run(["bash", "-n", folder / "upgrade.sh"], check=False).returncode == 0
