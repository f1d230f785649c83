"""Whom notices may be sent to, how they are signed, how long they are tried, and what is shown of them."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from reprieve.models.chunks import Chunk
from reprieve.models.errors import InvalidRequest, SettingsError
from reprieve.models.notice_rules import MAX_NAME_LENGTH, checked_rule
from reprieve.models.notices import (
    FIRST_PAUSE,
    LINE_LENGTH,
    LINES,
    LONGEST_PAUSE,
    MAX_URL_LENGTH,
    TRIED_FOR,
    Allowed,
    NoticeKind,
    Outbox,
    Told,
    address_of,
    checked_secrets,
    checked_url,
    is_public,
    last_lines,
    pause_after,
    signature,
)
from reprieve.models.owed import TOLD_AFTER
from reprieve.models.requests import MAX_NOTIFIED, RunRequest
from reprieve.workers.settings import load_settings

RUN = UUID(int=1)

PRIVATE = [
    *("192.0.0.192", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110"),
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
    *("224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
    # What stands for an address of IPv4: mapped, compatible, by NAT64, 6to4, Teredo.
    *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::1"),
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_this_machine_or_network_or_cloud_is_not_public(address: str) -> None:
    assert not is_public(address)
    assert not Allowed().takes("host.example", address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is(address: str) -> None:
    assert is_public(address)
    assert Allowed().takes("host.example", address)


@pytest.mark.parametrize(
    ("named", "host", "address", "taken"),
    [
        ("hooks.internal", "hooks.internal", "10.1.2.3", True),
        ("Hooks.Internal", "HOOKS.internal.", "10.1.2.3", True),
        ("hooks.internal", "other.internal", "10.1.2.3", False),
        ("hooks.internal", "evil.hooks.internal", "10.1.2.3", False),
        ("10.1.0.0/16", "any.example", "10.1.255.255", True),
        ("10.1.0.0/16", "any.example", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "any.example", "10.2.0.0", False),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3", True),
        ("fd00::/8", "any.example", "fd12::1", True),
        ("[fd00::1]", "any.example", "fd00::1", True),
    ],
)
def test_what_else_is_allowed_is_a_host_by_its_name_or_a_network(
    named: str, host: str, address: str, taken: bool
) -> None:
    assert Allowed.of([named]).takes(host, address) is taken


@pytest.mark.parametrize("named", ["10.1.0.0/99", "http://hooks.internal", "a b", "*.internal", "10.1.2.3/16"])
def test_what_is_neither_is_refused_with_the_settings(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="REPRIEVE_NOTICE_ALLOWED"):
        load_settings(notice_allowed=named.replace(" ", "/"))


@pytest.mark.parametrize(
    "url",
    [
        *("", "hooks.example", "ftp://hooks.example/", "http://", "http:hooks.example", "http:///x", "//hooks.example"),
        *(
            "http://a\\@b.example/",
            "http://a b/",
            "http://a.example/\n",
            "http://a.example:99999/",
            "file:///etc/passwd",
        ),
        *("http://größe.example/", "javascript:alert(1)", "http://" + "a" * MAX_URL_LENGTH),
    ],
)
def test_an_address_that_is_none_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checked_url(url)
    assert len(url) < 8 or url[7:] not in str(refused.value)
    with pytest.raises(InvalidRequest, match="notify"):
        RunRequest("process", {}, notify=[url]).terms()


def test_a_run_has_so_many_addresses_and_no_more() -> None:
    urls = [f"https://{number}.example/" for number in range(MAX_NOTIFIED + 1)]
    assert RunRequest("process", {}, notify=urls[1:]).terms()["notify"] == urls[1:]
    with pytest.raises(InvalidRequest, match="at most"):
        RunRequest("process", {}, notify=urls).terms()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@hooks.example/", "https://hooks.example"),
        ("https://hooks.example:8443/services/T0/B0/secret", "https://hooks.example:8443/…"),
        ("https://hooks.example?token=secret", "https://hooks.example/…"),
        ("http://[::1]:80/x", "http://[::1]:80/…"),
    ],
)
def test_nothing_of_an_address_is_shown_that_may_be_a_credential(url: str, shown: str) -> None:
    assert address_of(checked_url(url)) == shown


def test_a_notice_is_signed_as_standard_webhooks_does_it() -> None:
    """The example of its text."""
    given = signature(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert given == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!", "whsec_" + "A" * 88])
def test_a_secret_that_is_none_is_refused_and_not_quoted(secret: str) -> None:
    with pytest.raises(ValueError, match="reprieve notices secret") as refused:
        checked_secrets(secret)
    assert len(secret) < 8 or secret not in str(refused.value)


def test_gaps_double_and_a_day_has_an_end() -> None:
    assert [pause_after(tries) for tries in (1, 2, 3)] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pause_after(10) < LONGEST_PAUSE == pause_after(11) == pause_after(10_000)
    waited, tries = timedelta(0), 0
    while waited < TRIED_FOR:
        tries += 1
        waited += pause_after(tries)
    assert tries < 50


def chunk(data: bytes, stream: str = "stdout") -> Chunk:
    return Chunk(RUN, 1, 1, 1, stream, data)


def test_the_last_lines_are_whole_whatever_pieces_they_came_in() -> None:
    pieces = [chunk(b"one\ntw"), chunk(b"oops\n", "stderr"), chunk(b"o\r\nthr"), chunk(b"ee")]
    assert last_lines(pieces) == ["one", "oops", "two", "three"]
    assert last_lines([chunk(b"x\n" * 100)]) == ["x"] * LINES
    assert last_lines([chunk(b"x" * LINE_LENGTH), chunk(b"y", "stderr")]) == ["x" * LINE_LENGTH, "y"]
    assert last_lines([chunk(b"x" * (LINE_LENGTH + 1))]) == ["x" * LINE_LENGTH + "…"]
    assert last_lines([]) == []


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * (MAX_NAME_LENGTH + 1), "é"])
def test_a_rule_has_a_name_that_stands_in_a_path(name: str) -> None:
    assert checked_rule("a" * MAX_NAME_LENGTH, "https://a.example/").kinds == ()
    with pytest.raises(InvalidRequest, match="name of a rule"):
        checked_rule(name, "https://a.example/")


def test_a_rule_names_kinds_that_there_are_and_none_is_for_tests() -> None:
    assert checked_rule("a", "https://a.example/", ["failed", "failed"]).kinds == (NoticeKind.FAILED,)
    for kind in ("test", "ended"):
        with pytest.raises(InvalidRequest, match="no kind of notice"):
            checked_rule("a", "https://a.example/", [kind])
    with pytest.raises(InvalidRequest, match="lane"):
        checked_rule("a", "https://a.example/", lane="*")


NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


def told(state: str, tries: int, reason: str | None = None) -> str:
    settled = None if state == "owed" else NOW
    url = "https://u:p@a.example/secret"
    one = Told(RUN, RUN, 1, "failed", None, url, state, NOW, tries, reason, NOW + timedelta(seconds=40), settled)
    return one.sentence(NOW)


def test_a_notice_says_how_far_it_is() -> None:
    begins = "The notice of 12:00:00 UTC (failed) to https://a.example/…"
    assert told("owed", 0) == f"{begins} is to be sent."
    assert told("owed", 2, "it was answered with 500") == (
        f"{begins} could not be sent, tried 2 times: it was answered with 500. It is tried again in 40 s."
    )
    assert told("sent", 1) == f"{begins} was taken at 12:00:00 UTC."
    assert told("undeliverable", 30, "no") == (
        f"{begins} is undeliverable: it was tried 30 times, and is no more. The last time: no."
    )


def test_what_is_late_is_told_and_what_is_not_is_not() -> None:
    assert Outbox(5, TOLD_AFTER, "no", 0, None).complaints == []
    (late,) = Outbox(5, TOLD_AFTER + timedelta(seconds=1), "no", 0, None).complaints
    assert late == "There are 5 notices to be sent, for up to 5 min 1 s. The last time: no."
    (unsent,) = Outbox(5, timedelta(hours=1), None, 0, None).complaints
    assert unsent.endswith("Is a worker of the queue control running?")
    (lost,) = Outbox(0, timedelta(0), None, 2, "no").complaints
    assert lost.startswith("2 notices became undeliverable")
