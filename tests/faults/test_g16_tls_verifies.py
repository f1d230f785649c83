"""G16: TLS verifies unless somebody said not to, and so by every client of an address alike."""

import gc
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import kombu
import pytest
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from reprieve.stores.cache import connect
from reprieve.stores.database import Database
from reprieve.stores.embedded.address import choose_port
from reprieve.workers import broker, broker_address
from reprieve.workers.settings import Settings
from tests.conftest import Servers
from tests.servers.conftest import answers, redis_process
from tests.support.processes import Process
from tests.support.tls import Certificate, tls_before
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("G16")

#: Makes a URL of what its query asks of TLS.
Address = Callable[[str], str]
#: Raises when it is refused.
Client = Callable[[str], None]

TRUSTED = "127.0.0.1"
OTHER = "other.example"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    folder = tmp_path_factory.mktemp("certificates")
    return {name: Certificate.made(folder, name) for name in (TRUSTED, OTHER, "db.example")}


def with_redis(url: str) -> None:
    with connect(url) as client:
        client.ping()


def with_the_broker(url: str) -> None:
    told = broker_address.configuration(url)
    broker.install()
    options = told["broker_transport_options"]
    with kombu.Connection(told["broker_url"], ssl=told["broker_use_ssl"], transport_options=options) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
        connection.default_channel.client.ping()


def with_the_database(url: str) -> None:
    database = Database(url)
    try:
        database.now()
    finally:
        database.dispose()


REFUSALS = (RedisError, BrokerError, DBAPIError, ssl.SSLError, OSError)


def accepts(client: Client, url: str) -> bool:
    """Whether the client takes what the server shows. That it does not is by its certificate, not by its absence."""
    try:
        client(url)
    except REFUSALS as error:
        said = str(error).lower()
        assert "certificate" in said or "no master found" in said, said
        return False
    return True


# -- Redis, and what Sentinels name


@pytest.fixture(params=["rediss", "sentinels"])
def redis_address(
    request: pytest.FixtureRequest, servers: Servers, certificates: dict[str, Certificate], tmp_path: Path
) -> Iterator[Callable[[str], Address]]:
    """By the name in the server's certificate, the address of a Redis over TLS."""
    plain = make_url(servers.redis.url)
    started: list[Process] = []
    with ExitStack() as open_ones:

        def behind(name: str) -> Address:
            certificate = certificates[name]
            port = open_ones.enter_context(tls_before(plain.port or 0, certificate))
            if request.param == "rediss":
                return lambda asked: f"rediss://:{plain.password}@127.0.0.1:{port}/0?{asked}"
            own = choose_port()
            watch = (f"sentinel monitor main 127.0.0.1 {port} 1", "sentinel down-after-milliseconds main 600000")
            started.append(redis_process(f"sentinel-{own}", tmp_path, f"port {own}", *watch, sentinel=True))
            eventually(lambda: answers(port=own))
            over_tls = open_ones.enter_context(tls_before(own, certificate))
            return lambda asked: f"sentinels://:{plain.password}@127.0.0.1:{over_tls}/0?master=main&{asked}"

        yield behind
        for process in started:
            process.stop(timeout=0)


@pytest.mark.parametrize("client", [with_redis, with_the_broker])
def test_redis_over_tls_is_verified_by_each_client_unless_its_address_says_not_to(
    redis_address: Callable[[str], Address], certificates: dict[str, Certificate], client: Client
) -> None:
    address = redis_address(TRUSTED)
    authority = quote(str(certificates[TRUSTED].file), safe="")
    assert not accepts(client, address(""))
    assert not accepts(client, address("ssl_cert_reqs=required"))
    assert accepts(client, address(f"ssl_ca_certs={authority}"))
    assert accepts(client, address("ssl_cert_reqs=none"))


@pytest.mark.parametrize("client", [with_redis, with_the_broker])
def test_a_redis_that_shows_the_certificate_of_another_host_is_refused_by_each_client(
    redis_address: Callable[[str], Address], certificates: dict[str, Certificate], client: Client
) -> None:
    address = redis_address(OTHER)
    authority = f"ssl_ca_certs={quote(str(certificates[OTHER].file), safe='')}"
    assert not accepts(client, address(authority))
    assert accepts(client, address(f"{authority}&ssl_check_hostname=false"))


# -- RabbitMQ


# py-amqp leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_a_rabbitmq_over_tls_is_verified_unless_its_address_says_not_to(
    certificates: dict[str, Certificate],
) -> None:
    def is_greeted(name: str, asked: str) -> bool:
        """Whether a client goes on behind the handshake, to say what it speaks."""
        # The client ends, and what it left is collected, while this test is the one that may leave a socket.
        with ThreadPoolExecutor(1) as one_thread, socket.create_server(("127.0.0.1", 0)) as rabbit:
            rabbit.settimeout(0.5)
            with tls_before(rabbit.getsockname()[1], certificates[name]) as port:
                one_thread.submit(begin, f"amqps://me:secret@127.0.0.1:{port}//?{asked}")
                with suppress(TimeoutError):
                    client, _ = rabbit.accept()
                    with client:
                        return client.recv(4) == b"AMQP"
        return False

    def begin(url: str) -> None:
        told = broker_address.configuration(url)
        with suppress(*REFUSALS), kombu.Connection(told["broker_url"], ssl=told["broker_use_ssl"]) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def file(name: str) -> str:
        return f"ssl_ca_certs={quote(str(certificates[name].file), safe='')}"

    assert not is_greeted(TRUSTED, "")
    assert is_greeted(TRUSTED, file(TRUSTED))
    assert is_greeted(TRUSTED, "ssl_cert_reqs=none")
    assert not is_greeted(OTHER, file(OTHER))
    assert is_greeted(OTHER, f"{file(OTHER)}&ssl_check_hostname=false")
    gc.collect()


# -- PostgreSQL


@pytest.fixture
def database_address(servers: Servers) -> Callable[[int, str, str], str]:
    """The database at a port, under a host name that leads to loopback without being it by name."""
    plain = make_url(servers.postgres.url)

    def at(port: int, host: str, asked: str) -> str:
        where = "" if host == "127.0.0.1" else "&hostaddr=127.0.0.1"
        return f"postgresql+psycopg2://reprieve:{plain.password}@{host}:{port}/reprieve?{asked}{where}".replace(
            "?&", "?"
        )

    return at


def test_the_certificate_of_a_database_elsewhere_is_verified_unless_its_address_says_not_to(
    servers: Servers, certificates: dict[str, Certificate], database_address: Callable[[int, str, str], str]
) -> None:
    plain = make_url(servers.postgres.url).port or 0
    authority = f"sslrootcert={quote(str(certificates['db.example'].file), safe='')}"
    with tls_before(plain, certificates["db.example"], postgres=True) as port:
        assert not accepts(with_the_database, database_address(port, "db.example", ""))
        assert not accepts(with_the_database, database_address(port, "db.example", "sslmode=verify-full"))
        assert accepts(with_the_database, database_address(port, "db.example", authority))
        assert accepts(with_the_database, database_address(port, "db.example", "sslmode=require"))
        with pytest.raises(DBAPIError, match="does not match host name"):
            with_the_database(database_address(port, "another.example", authority))


def test_a_database_without_tls_is_taken_where_nobody_asked_for_it_and_one_of_this_machine_as_it_is(
    servers: Servers, certificates: dict[str, Certificate], database_address: Callable[[int, str, str], str]
) -> None:
    plain = make_url(servers.postgres.url).port or 0
    assert accepts(with_the_database, database_address(plain, "db.example", ""))
    with pytest.raises(DBAPIError, match="does not support SSL"):
        with_the_database(database_address(plain, "db.example", "sslmode=verify-full&sslrootcert=system"))
    with tls_before(plain, certificates[OTHER], postgres=True) as port:
        assert accepts(with_the_database, database_address(port, "127.0.0.1", ""))


# -- what is asked, and cannot be


@pytest.mark.parametrize(
    ("setting", "url", "told"),
    [
        ("redis_url", "rediss://h/0?ssl_cert_reqs=maybe", "ssl_cert_reqs that is none of required, optional, none"),
        ("redis_url", "redis://h/0?ssl_ca_certs=/etc/hosts", "no TLS: it would begin with rediss://"),
        ("redis_url", "rediss://h/0?ssl_ca_certs=/not/here", "names a file that is not here by ssl_ca_certs"),
        ("redis_url", "sentinel://h/0?master=m&ssl_cert_reqs=none", "no TLS: it would begin with sentinels://"),
        ("broker_url", "amqp://h//?ssl_cert_reqs=none", "no TLS: it would begin with amqps://"),
        ("broker_url", "amqps://h//?ssl_check_hostname=perhaps", "neither true nor false"),
        ("database_url", "postgresql://h/d?sslrootcert=/not/here", "names a file that is not here by sslrootcert"),
    ],
)
def test_what_an_address_says_of_tls_is_heeded_or_refused(setting: str, url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings.model_validate({setting: url})
