"""What a recorded namespace and slot mean to the holder of a slot, and what a node may be called."""

from datetime import UTC, datetime, timedelta

import pytest

from reprieve.models.errors import TimingRefused
from reprieve.models.liveness import Timing
from reprieve.models.nodes import (
    LONGEST_NAME,
    HeldTwice,
    Node,
    Unseen,
    Whose,
    as_name,
    complaints,
    ends_with_us,
    free_name,
    in_words,
    is_name,
    may_inherit,
    may_waive,
    whose,
)
from reprieve.models.watching import Watch

MACHINE = "boot-1/pid:[4026531836]"
HERE = "boot-1/pid:[4026532001]"
BESIDE = "boot-1/pid:[4026532002]"
BEFORE = "boot-0/pid:[4026532001]"
OURS = Node("host", "slot-1", HERE)
NOW = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.mark.parametrize(
    ("namespace", "slot", "is_to_us"),
    [
        (HERE, "slot-1", Whose.MINE),
        # A number that means something here can be looked up, whoever recorded it.
        (HERE, None, Whose.MINE),
        (HERE, "slot-2", Whose.MINE),
        (BESIDE, "slot-1", Whose.GONE),
        (BEFORE, "slot-1", Whose.GONE),
        (BEFORE, None, Whose.GONE),
        (BESIDE, "slot-2", Whose.NOT_MINE),
        (BEFORE, "slot-2", Whose.NOT_MINE),
        # Recorded before there were slots: perhaps by another live holder of the name.
        (BESIDE, None, Whose.NOT_MINE),
        # The machine's own processes end with the boot only.
        (MACHINE, "slot-1", Whose.NOT_MINE),
        ("", "slot-1", Whose.GONE),
        ("", None, Whose.GONE),
    ],
)
def test_what_was_recorded_is_mine_gone_or_not_mine_to_see(namespace: str, slot: str | None, is_to_us: Whose) -> None:
    assert whose(namespace, slot, OURS) is is_to_us


@pytest.mark.parametrize(
    ("holder", "namespace", "may"),
    [
        (None, HERE, True),
        (HERE, HERE, True),
        (BESIDE, HERE, True),
        (BEFORE, HERE, True),
        ("garbage", HERE, True),
        (HERE, MACHINE, True),
        (MACHINE, HERE, False),
        (MACHINE, MACHINE, True),
        ("boot-0/pid:[4026531836]", HERE, True),
    ],
)
def test_a_free_slot_is_inherited_unless_its_work_may_still_run(holder: str | None, namespace: str, may: bool) -> None:
    assert may_inherit(holder, namespace) is may


@pytest.mark.parametrize(
    ("namespace", "above", "ends"),
    [
        # PID 1 itself, or started from outside beside a `pause`.
        (HERE, [], True),
        (HERE, [(1, "tini")], True),
        (HERE, [(1, "docker-init")], True),
        (HERE, [(1, "an-init-we-never-heard-of")], True),
        # The image's own init, below the engine's; beside a `pause`; or where a process was started from outside.
        (HERE, [(7, "tini"), (1, "docker-init")], True),
        (HERE, [(7, "tini")], True),
        (HERE, [(7, "tini"), (1, "systemd")], False),
        (HERE, [(1, "systemd")], False),
        (HERE, [(1, "supervisord")], False),
        (HERE, [(5, "sh"), (1, "tini")], False),
        (HERE, [(5, "sh")], False),
        (HERE, [(7, "tini"), (5, "supervisord"), (1, "tini")], False),
        (MACHINE, [(1, "systemd")], False),
        (MACHINE, [(1, "tini")], False),
        ("no-boot-id", [(1, "launchd")], False),
    ],
)
def test_a_worker_takes_detached_work_with_it_where_its_end_is_its_containers(
    namespace: str, above: list[tuple[int, str]], ends: bool
) -> None:
    assert ends_with_us(namespace, above) is ends


@pytest.mark.parametrize("name", ["a", "host", "réseau-1", "a.b-c_d", "x" * LONGEST_NAME])
def test_a_name_is_text_that_can_be_shown(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a\nb", "\x1b[31m", "a\u202eb", "\udc80", "x" * (LONGEST_NAME + 1), None]
)
def test_what_cannot_be_shown_is_no_name(name: str | None) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("told", ["host", "a b", "\x1b[31m", "\udc80", "", "x" * 1000, "a\u202eb"])
def test_whatever_a_host_calls_itself_becomes_a_name_with_room_for_a_number(told: str) -> None:
    assert is_name(as_name(told) + "-123456")


def test_names_are_numbered_from_the_second_on() -> None:
    assert free_name("host", []) == "host"
    assert free_name("host", ["host", "host-3"]) == "host-2"
    assert free_name("host", ["host", "host-2"]) == "host-3"


def test_a_host_that_was_not_seen_was_not_there_only_where_we_looked_for_a_window() -> None:
    timing, watched = Timing(), Timing().window
    just = Watch(since=NOW - watched, last_sweep_at=NOW, window=timing.window)
    short = Watch(since=NOW - watched + timedelta(seconds=1), last_sweep_at=NOW, window=timing.window)
    assert may_waive(just, NOW, timing)
    assert not may_waive(short, NOW, timing)


def test_a_host_is_not_lost_before_a_worker_that_is_cut_off_has_ended_its_children() -> None:
    Timing(cut_off_limit=timedelta(hours=1), host_lost_after=timedelta(hours=2))
    with pytest.raises(TimingRefused, match=r"^A host counts as lost before .* for sure\.$"):
        Timing(cut_off_limit=timedelta(hours=1), host_lost_after=timedelta(hours=2) - timedelta(seconds=1))


def test_what_is_wrong_with_hosts_is_a_sentence_each() -> None:
    timing = Timing()
    assert complaints([], [], timing) == []
    unseen, twice = Unseen("gone", 2, timedelta(hours=3)), HeldTwice("pair", ("runs@a", "runs@b"))
    told = complaints([unseen], [twice], timing)
    assert "runs@a and runs@b" in told[0]
    assert told[0].endswith(" a REPRIEVE_NODE_NAME of its own, or none, and a data folder that is no copy.")
    assert "Host gone owes the end of 2 attempts, and no worker of it was seen for 3 h" in told[1]
    assert told[1].endswith(" at the most. Start a worker on its data folder.")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (21600, "6 h")],
)
def test_times_are_told_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("told", "name"),
    [("", "host"), ("my host", "my-host"), ("x" * 300, "x" * 245), ("größe.lan", "größe.lan")],
)
def test_what_a_host_calls_itself_is_changed_where_it_is_no_name(told: str, name: str) -> None:
    assert as_name(told) == name
