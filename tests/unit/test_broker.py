"""What Celery is told of the broker, by its URL."""

import pytest
from celery import Celery

from reprieve.stores.cache import connect
from reprieve.stores.sentinel import SentinelAddress
from reprieve.workers.broker import to_ask
from reprieve.workers.broker_address import VISIBILITY_TIMEOUT, configuration

SENTINEL = "sentinel://:pass%2Fword@one:26379,two/3?master=main&sentinel_password=other"


@pytest.mark.parametrize("url", ["redis://:p@host:6379/0", "rediss://host/1"])
def test_redis_is_waited_for_briefly_and_gives_back_what_was_not_acknowledged(url: str) -> None:
    told = configuration(url)
    options = told["broker_transport_options"]
    assert told["broker_url"] == url
    assert (options["socket_timeout"], options["visibility_timeout"]) == (2, VISIBILITY_TIMEOUT)
    assert "master_name" not in options


@pytest.mark.parametrize("url", ["amqp://user:p@host:5672//", "amqps://host//", "pyamqp://host//"])
def test_rabbitmq_is_told_nothing_that_only_redis_knows(url: str) -> None:
    told = configuration(url)
    assert (told["broker_url"], told["broker_transport_options"]) == (url, {"write_timeout": 2})


def test_another_broker_is_told_nothing() -> None:
    told = configuration("sqs://")
    assert (told["broker_url"], told["broker_transport_options"], told["broker_use_ssl"]) == ("sqs://", {}, False)


def test_the_address_of_a_master_that_sentinels_name_is_given_to_celery_in_its_own_form() -> None:
    told = configuration(SENTINEL)
    options = told["broker_transport_options"]
    assert told["broker_url"] == "sentinel://:pass%2Fword@one:26379/3;sentinel://:pass%2Fword@two:26379/3"
    assert options["master_name"] == "main"
    assert options["sentinel_kwargs"]["password"] == "other"
    assert options["sentinel_kwargs"]["socket_timeout"] == 2


def test_the_same_address_is_a_client_of_redis_that_opens_nothing_by_itself() -> None:
    client = connect(SENTINEL)
    pool = client.connection_pool
    assert (pool.service_name, pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (
        "main",
        3,
        "pass/word",
    )
    assert [one.connection_pool.connection_kwargs["host"] for one in pool.sentinel_manager.sentinels] == ["one", "two"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sentinel://one?master=m", SentinelAddress((("one", 26379),), "m")),
        ("sentinel://u:p@[::1]:5/2?master=m", SentinelAddress((("::1", 5),), "m", 2, "u", "p")),
    ],
)
def test_what_is_left_out_of_an_address_is_the_usual(url: str, expected: SentinelAddress) -> None:
    assert SentinelAddress.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://one:26379/0",
        "sentinel:///0?master=m",
        "sentinel://one:x?master=m",
        "sentinel://one/a?master=m",
        "sentinel://one?master=m&mastre=n",
        "sentinel://one,,two?master=m",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_with_the_form_that_would_do(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be sentinel://.*master=NAME"):
        SentinelAddress.parse(url)


@pytest.mark.row("E14")
@pytest.mark.parametrize(("url", "waits"), [("amqp://u:p@host//", 2), ("redis://host/0", None)])
def test_who_asks_the_broker_waits_no_longer_than_for_any_other(url: str, waits: int | None) -> None:
    asking = to_ask(Celery(broker=url))
    assert asking.transport_options.get("read_timeout") == waits
