"""Notices are sent until they are taken, whatever their receivers do, and nobody else waits for one that hangs."""

import base64
import hashlib
import hmac
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from reprieve import cancel_run
from reprieve.models.notice_rules import checked_rule
from reprieve.models.notices import LEAST_TRIES, NoticeState
from reprieve.models.status import ErrorCode
from reprieve.models.work import End, Outcome, Work
from reprieve.workers import notices as sending
from reprieve.workers import posting
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.notices import Sender
from tests.conftest import StartWorker
from tests.support.receiver import SECRET, Received, Receiver, answering, receiving
from tests.support.rows import chunk, ingest, make_due, new_run, running
from tests.support.tls import Certificate, tls_before
from tests.support.waiting import eventually

LOCAL = ("127.0.0.0/8",)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def send(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sender]]:
    """Starts senders, which look often and wait for a second at the most, and ends them after the test."""
    started: list[Sender] = []
    monkeypatch.setattr(sending, "LOOK_INTERVAL", 0.05)
    monkeypatch.setattr(posting, "WHOLE_TIMEOUT", 1.0)

    def start(secret: str | None = SECRET, allowed: tuple[str, ...] = LOCAL) -> Sender:
        given = {"notice_secret": None if secret is None else SecretStr(secret), "notice_allowed": allowed}
        sender = Sender(replace(services, settings=services.settings.model_copy(update=given)))
        sender.start()
        started.append(sender)
        return sender

    yield start
    for sender in started:
        sender.close()


def ended(services: Services, *urls: str, **changes: Any) -> Work:
    """A run that has succeeded, and tells these addresses of it."""
    work = running(services, notify=list(urls), **changes)
    assert finish(services, [End.by_result(work.fence, Outcome(), 0)])
    return work


def count(services: Services, state: NoticeState) -> int:
    return len(services.notices.in_state(state, 10_000))


def all_sent(services: Services, number: int) -> None:
    eventually(lambda: count(services, NoticeState.SENT) == number, what=f"{number} notices to be sent")


def tried(services: Services, times: int = 1) -> None:
    """Until each notice that is owed has failed so often."""

    def failed() -> bool:
        owed = services.notices.in_state(NoticeState.OWED)
        return all(one.tries >= times and one.reason and "nothing was heard" not in one.reason for one in owed)

    eventually(failed, what="a failed try of each")


def proves(received: Received, secret: str = SECRET) -> bool:
    """As a receiver verifies it, by the text of Standard Webhooks."""
    signed = f"{received.id}.{received.headers['webhook-timestamp']}.".encode() + received.body
    mac = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(mac).decode()}" in received.headers["webhook-signature"].split()


def test_a_notice_tells_of_the_run_its_error_why_and_its_last_lines_and_is_signed(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    work = running(services, notify=[receiver.url], labels={"team": "data"})
    printed = b"".join(f"line {number}\n".encode() for number in range(30))
    ingest(services, [chunk(work, 1, printed), chunk(work, 2, b"oh no\xff\n", stream="stderr")])
    outcome = Outcome(ErrorCode.EXIT_STATUS, "exit status 3", {"exit_status": 3})
    assert finish(services, [End.by_result(work.fence, outcome, 2)])
    send()
    all_sent(services, 1)
    (received,) = receiver.received
    told = received.told
    assert (told["type"], told["data"]["attempt"]) == ("run.failed", 1)
    assert told["data"]["run"]["id"] == str(work.run_id)
    assert told["data"]["run"]["labels"] == {"team": "data"}
    assert told["data"]["error"] == {"code": "exit_status", "message": "exit status 3"}
    assert "Failed: exit status 3" in told["data"]["sentences"]
    assert told["data"]["lines"] == [f"line {number}" for number in range(11, 30)] + ["oh no�"]
    assert told["data"]["link"].endswith(f"/#/runs/{work.run_id}")
    assert proves(received)
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60
    assert not proves(replace(received, body=received.body.replace(b"exit status 3", b"exit status 0")))


def test_each_of_two_secrets_proves_a_notice(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    other = "whsec_" + base64.b64encode(b"another secret of 32 bytes ......").decode()
    ended(services, receiver.url)
    send(secret=f"{other}, {SECRET}")
    all_sent(services, 1)
    assert [proves(receiver.received[0], one) for one in (SECRET, other)] == [True, True]


def test_the_last_lines_of_a_run_are_waited_for_though_its_end_overtook_them(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    work = running(services, notify=[receiver.url])
    assert finish(services, [End.by_result(work.fence, Outcome(), 1)])
    send()
    eventually(lambda: services.notices.in_state(NoticeState.OWED)[0].next_try_at > services.database.now(), timeout=10)
    assert receiver.received == []
    ingest(services, [chunk(work, 1, b"the last words\n")])
    all_sent(services, 1)
    assert receiver.received[0].told["data"]["lines"] == ["the last words"]


def test_a_receiver_that_was_down_is_told_when_it_is_back_and_knows_a_repeat_by_its_id(
    services: Services, send: Callable[..., Sender]
) -> None:
    with receiving() as first:
        pass
    runs = [ended(services, first.url).run_id for _ in range(3)]
    send()
    tried(services)
    assert count(services, NoticeState.OWED) == 3
    with receiving(first.port) as back:
        back.answer = answering(500)
        make_due(services)
        tried(services, 2)
        back.answer = answering(200)
        make_due(services)
        all_sent(services, 3)
        assert sorted(back.ids) == sorted([one.id for one in back.received[:3]] * 2)
        assert {one.told["data"]["run"]["id"] for one in back.received} == {str(run) for run in runs}
        assert all(map(proves, back.received))


def test_a_receiver_that_hangs_or_drips_holds_up_none_of_the_others_notices(
    services: Services, send: Callable[..., Sender], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "WHOLE_TIMEOUT", 60.0)
    with receiving() as hanging, receiving() as dripping:
        hanging.answer, dripping.answer = hanging.hang, dripping.drip
        for _ in range(20):
            ended(services, hanging.url, dripping.url)
        send()
        eventually(lambda: len(hanging.received) == len(dripping.received) == sending.TO_ONE_RECEIVER)
        for _ in range(20):
            ended(services, receiver.url)
        all_sent(services, 20)
        # And no more than those were begun.
        assert len(hanging.received) == len(dripping.received) == sending.TO_ONE_RECEIVER


def test_names_that_nobody_resolves_hold_up_none_of_the_others_notices(
    services: Services, send: Callable[..., Sender], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, over, asked = socket.getaddrinfo, threading.Event(), list[str]()

    def resolve(host: Any, *given: Any, **named: Any) -> Any:
        if str(host).endswith(".hangs.example"):
            asked.append(host)
            over.wait(60)
        return real(host, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for number in range(sending.AT_ONCE - 1):
        ended(services, f"http://{number}.hangs.example/")
    send()
    try:
        eventually(lambda: len(set(asked)) == sending.AT_ONCE - 1, what="all of these names to be asked for at once")
        ended(services, receiver.url)
        all_sent(services, 1)
    finally:
        over.set()


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_an_answer_that_does_not_end_has_an_end(
    services: Services, send: Callable[..., Sender], receiver: Receiver, how: str
) -> None:
    receiver.answer = getattr(receiver, how)
    ended(services, receiver.url)
    send()
    tried(services)
    (owed,) = services.notices.in_state(NoticeState.OWED)
    assert owed.reason == "it was not answered within 1 s"


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 500, 503])
def test_only_a_2xx_takes_a_notice_and_no_redirect_is_followed(
    services: Services, send: Callable[..., Sender], receiver: Receiver, status: int
) -> None:
    receiver.answer = answering(status, Location=receiver.url.replace("/hook", "/elsewhere"))
    ended(services, receiver.url)
    send()
    tried(services)
    assert [one.path for one in receiver.received] == ["/hook"]
    (owed,) = services.notices.in_state(NoticeState.OWED)
    assert f"answered with {status}" in str(owed.reason)


def age_of_all(services: Services, age: timedelta) -> None:
    with services.database.begin() as connection:
        connection.execute(text("UPDATE notices SET owed_at = clock_timestamp() - :age"), {"age": age})


def test_after_a_day_a_notice_is_undeliverable_and_can_be_sent_again_by_hand(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    receiver.answer = answering(500)
    run = ended(services, receiver.url).run_id
    age_of_all(services, timedelta(hours=23))
    send()
    tried(services)
    assert count(services, NoticeState.OWED) == 1
    age_of_all(services, timedelta(hours=24))
    make_due(services)
    tried(services, 2)
    assert count(services, NoticeState.OWED) == 1, "who could not send it for a day has not tried it for a day"
    services.database.run(text("UPDATE notices SET tries = :tries"), {"tries": LEAST_TRIES - 1})
    make_due(services)
    eventually(lambda: count(services, NoticeState.UNDELIVERABLE) == 1)
    (given_up,) = services.notices.of_run(run)
    assert "is undeliverable" in given_up.sentence(services.database.now())
    assert "answered with 500" in services.notices.outbox().complaints[-1]
    receiver.answer = answering(200)
    services.notices.again(given_up.id)
    all_sent(services, 1)
    assert set(receiver.ids) == {str(given_up.id)}
    assert services.notices.outbox().complaints == []


def test_without_a_secret_nothing_is_sent_and_the_row_says_why(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    ended(services, receiver.url)
    send(secret=None)
    tried(services)
    (owed,) = services.notices.in_state(NoticeState.OWED)
    assert "REPRIEVE_NOTICE_SECRET is not set" in str(owed.reason)
    assert receiver.received == []


def test_a_private_address_is_refused_unless_it_is_allowed(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    run = ended(services, receiver.url).run_id
    send(allowed=("10.0.0.0/8", "elsewhere.example"))
    tried(services)
    assert "not a public address" in services.notices.of_run(run)[0].sentence(services.database.now())
    assert receiver.received == []


def test_what_is_connected_to_is_the_address_that_was_looked_at_however_the_name_resolves_later(
    services: Services, send: Callable[..., Sender], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of an attacker's: first it is somewhere that is allowed, and from then on at the cloud's metadata."""
    answers, asked = [("127.0.0.1", receiver.port), ("169.254.169.254", 80)], []
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host not in ("rebind.example", b"rebind.example"):
            return real(host, port, *more, **named)
        asked.append(answers[min(len(asked), 1)])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", asked[-1])]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    ended(services, f"http://rebind.example:{receiver.port}/hook")
    send()
    all_sent(services, 1)
    assert len(asked) == 1
    assert receiver.received[0].headers["host"] == f"rebind.example:{receiver.port}"
    ended(services, f"http://rebind.example:{receiver.port}/hook")
    tried(services)
    assert (len(asked), len(receiver.received)) == (2, 1)


def test_where_a_host_has_several_addresses_the_next_is_tried_and_those_that_are_private_are_not(
    services: Services, send: Callable[..., Sender], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, addresses = socket.getaddrinfo, ["10.0.0.1", "127.0.0.2", "127.0.0.1"]

    def several(host: Any, *more: Any, **named: Any) -> Any:
        if host != "several.example":
            return real(host, *more, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, receiver.port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    ended(services, f"http://several.example:{receiver.port}/hook")
    send()
    all_sent(services, 1)
    addresses.pop()
    ended(services, f"http://several.example:{receiver.port}/hook")
    tried(services)
    assert "cannot be reached" in str(services.notices.in_state(NoticeState.OWED)[0].reason)


@pytest.mark.parametrize(("name", "taken"), [("hooks.example", True), ("other.example", False)])
def test_over_tls_the_name_is_what_is_verified_though_the_connection_is_to_its_address(
    services: Services,
    send: Callable[..., Sender],
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    taken: bool,
) -> None:
    certificate, real = Certificate.made(tmp_path, "hooks.example"), socket.getaddrinfo

    def local(host: Any, *more: Any, **named: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".example") else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    monkeypatch.setattr(posting, "_tls", lambda: ssl.create_default_context(cafile=certificate.file))
    with tls_before(receiver.port, certificate) as port:
        ended(services, f"https://{name}:{port}/hook")
        send()
        if taken:
            all_sent(services, 1)
        else:
            tried(services)
            assert "CERTIFICATE_VERIFY_FAILED" in str(services.notices.in_state(NoticeState.OWED)[0].reason)
    assert len(receiver.received) == taken


def test_a_try_whose_process_died_is_made_again_and_a_late_one_changes_nothing(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    ended(services, receiver.url)
    (dead,) = services.notices.begin(4, {}, 32, timedelta(minutes=2))
    send()
    make_due(services)
    all_sent(services, 1)
    assert services.notices.failed(dead, "it was slow") is None
    services.notices.sent(dead)
    assert count(services, NoticeState.SENT) == 1


def test_what_was_taken_late_is_sent_though_another_has_given_it_up_meanwhile(services: Services) -> None:
    ended(services, "https://hooks.example/")
    (slow,) = services.notices.begin(1, {}, 1, timedelta(0))
    services.database.run(text("UPDATE notices SET tries = :tries, owed_at = now() - interval '2 days'"), {"tries": 20})
    (other,) = services.notices.begin(1, {}, 1, timedelta(0))
    assert services.notices.failed(other, "No.") is NoticeState.UNDELIVERABLE
    services.notices.sent(slow)
    assert count(services, NoticeState.SENT) == 1
    assert services.notices.outbox().complaints == []


def test_two_who_look_at_once_try_each_notice_once(services: Services) -> None:
    for _ in range(10):
        ended(services, "https://a.example/", "https://b.example/")
    first = services.notices.begin(4, {}, 32, timedelta(minutes=2))
    second = services.notices.begin(4, {"a.example": 3}, 32, timedelta(minutes=2))
    assert len(first) == 8
    assert len(second) == 5
    assert not {one.id for one in first} & {one.id for one in second}


def test_a_test_of_a_rule_is_sent_as_any_notice_is(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    services.notices.put_rule(checked_rule("mine", receiver.url, ["failed"]))
    services.notices.test("mine")
    send()
    all_sent(services, 1)
    assert receiver.received[0].told["type"] == "test"
    assert proves(receiver.received[0])


def test_a_test_is_tried_once_and_alarms_nobody(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    receiver.answer = answering(500)
    services.notices.put_rule(checked_rule("mine", receiver.url))
    made = services.notices.test("mine")
    send()
    eventually(lambda: services.notices.find(made.id).state == NoticeState.UNDELIVERABLE)
    assert (services.notices.outbox().owed, services.notices.outbox().undeliverable) == (0, 0)
    assert len(receiver.received) == 1


def test_a_receiver_that_takes_a_notice_and_whose_answer_is_lost_gets_it_again_under_the_same_id(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    receiver.answer = receiver.hang
    ended(services, receiver.url)
    send()
    tried(services)
    receiver.answer = answering(200)
    make_due(services)
    all_sent(services, 1)
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1


def test_whatever_a_receiver_does_each_notice_arrives_is_genuine_and_a_repeat_is_known(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    """One that refuses, hangs, drips, redirects, cuts, and takes: by chance, until each was taken."""
    ways = [answering(500), answering(302, Location="/x"), answering(200), receiver.hang, receiver.drip, cut]
    chance = random.Random(18)
    receiver.answer = lambda handler: chance.choice(ways)(handler)
    runs = {str(ended(services, receiver.url).run_id) for _ in range(24)}
    for _ in range(2):
        send()

    def sent() -> bool:
        make_due(services)
        return count(services, NoticeState.SENT) == len(runs)

    eventually(sent, timeout=120)
    assert {one.told["data"]["run"]["id"] for one in receiver.received} == runs
    assert all(map(proves, receiver.received))
    by_id = {one.id: one.told["data"]["run"]["id"] for one in receiver.received}
    assert sorted(by_id.values()) == sorted(runs)
    assert len(receiver.received) > len(runs)


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def test_the_user_of_an_address_is_said_to_its_receiver_and_to_nobody_else(
    services: Services, send: Callable[..., Sender], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = receiver.url.replace("//", "//someone:hunter2@") + "/hunter2?hunter2"
    receiver.answer = answering(500)
    run = ended(services, url).run_id
    send()
    tried(services)
    assert receiver.received[0].headers["authorization"] == "Basic c29tZW9uZTpodW50ZXIy"
    (owed,) = services.notices.of_run(run)
    assert "hunter2" not in f"{owed.reason} {owed.address} {owed.sentence(services.database.now())} {caplog.text}"


def test_what_was_settled_long_ago_is_removed(services: Services) -> None:
    for _ in range(2):
        ended(services, "https://a.example/", "https://b.example/")
    statement = "UPDATE notices SET state = :state, settled_at = clock_timestamp() - :age WHERE id = :id"
    owed = services.notices.in_state(NoticeState.OWED)
    ages = [("sent", 6.9), ("sent", 7.1), ("undeliverable", 29.9), ("undeliverable", 30.1)]
    for one, (state, days) in zip(owed, ages, strict=True):
        with services.database.begin() as connection:
            connection.execute(text(statement), {"id": one.id, "state": state, "age": timedelta(days=days)})
    assert services.notices.tidy() == 2
    assert (count(services, NoticeState.SENT), count(services, NoticeState.UNDELIVERABLE)) == (1, 1)


def test_a_run_that_was_cancelled_before_its_first_attempt_has_no_lines(
    services: Services, send: Callable[..., Sender], receiver: Receiver
) -> None:
    run = new_run(services, notify=[receiver.url])
    cancel_run(run.id)
    send()
    all_sent(services, 1)
    told = receiver.received[0].told
    assert (told["type"], told["data"]["lines"], told["data"]["attempt"]) == ("run.cancelled", [], 0)


def test_a_worker_that_is_killed_while_it_sends_leaves_the_notice_to_another(
    services: Services, start_worker: StartWorker, receiver: Receiver
) -> None:
    settings = {"REPRIEVE_NOTICE_SECRET": SECRET, "REPRIEVE_NOTICE_ALLOWED": "127.0.0.1"}
    receiver.answer = receiver.hang
    ended(services, receiver.url)
    first = start_worker("control", name="first", extra=settings)
    eventually(lambda: receiver.received)
    first.kill()
    receiver.answer = answering(204)
    start_worker("control", name="second", extra=settings)
    make_due(services)
    all_sent(services, 1)
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1
