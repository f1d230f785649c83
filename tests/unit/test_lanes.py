"""Lanes: their names and patterns, which rule counts, and what is said of what waits."""

from datetime import UTC, datetime, timedelta

import pytest

from reprieve.models.errors import InvalidRequest
from reprieve.models.lanes import LaneState, Rule, checked_lane, checked_limit, checked_pattern, rule_for, served

PATTERNS = ["*", "tenant:*", "tenant:acme*", "tenant:acme"]


@pytest.mark.parametrize(
    ("lane", "counts"),
    [
        ("tenant:acme", "tenant:acme"),
        ("tenant:acme2", "tenant:acme*"),
        ("tenant:b", "tenant:*"),
        ("tenant", "*"),
        ("", "*"),
    ],
)
def test_of_several_patterns_the_exact_one_counts_and_else_the_longest(lane: str, counts: str) -> None:
    assert rule_for(lane, PATTERNS) == counts
    assert rule_for(lane, reversed(PATTERNS)) == counts


def test_a_lane_that_fits_no_pattern_has_no_rule() -> None:
    assert rule_for("other", ["tenant:*", "othe", "other2"]) is None


@pytest.mark.parametrize("name", ["claude", "tenant:acme", "owner/repo", "日本", "a%_b", "x" * 128])
def test_a_name_may_be_a_lane_and_a_pattern(name: str) -> None:
    assert checked_lane(name) == checked_pattern(name) == name
    assert checked_pattern(f"{name[:-1]}*") == f"{name[:-1]}*"


@pytest.mark.parametrize("name", ["", " a", "a ", "a,b", "a\0b", "x" * 129, None, 7])
def test_what_is_no_name_is_refused_with_what_would_do(name: object) -> None:
    with pytest.raises(InvalidRequest, match="1 to 128 characters"):
        checked_lane(name)
    with pytest.raises(InvalidRequest, match="no lane: give its name"):
        checked_pattern(name)


@pytest.mark.parametrize(
    ("limit", "fits"), [(1, True), (1_000_000, True), (None, True), (0, False), (1_000_001, False)]
)
def test_a_limit_is_a_whole_number_from_one_on_or_none(limit: int | None, fits: bool) -> None:
    if fits:
        assert checked_limit(limit) == limit
    else:
        with pytest.raises(InvalidRequest, match="pause the lane"):
            checked_limit(limit)


@pytest.mark.parametrize("given", [10**5000, "[\x1b[2J]\n\0" * 1_000_000], ids=["a number", "text"])
def test_what_is_refused_is_told_in_a_short_line_however_large_it_is(given: object) -> None:
    for check in (checked_lane, checked_pattern, checked_limit):
        with pytest.raises(InvalidRequest) as refused:
            check(given)
        assert len(str(refused.value)) < 500
        assert str(refused.value).isprintable()


def test_a_worker_names_the_lanes_that_it_serves() -> None:
    assert served(" gpu , tenant:* ") == ["gpu", "tenant:*"]
    for given in ("", " , ", ",".join("a" * (n + 1) for n in range(101))):
        with pytest.raises(InvalidRequest, match="Give 1 to 100 lanes"):
            served(given)


def lane(**changes: object) -> LaneState:
    values = {"running": 0, "ending": 0, "waiting": 3, "later": 0, "oldest": timedelta(minutes=2), "is_served": True}
    return LaneState(lane="claude", **({"rule": None} | values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (lane(), None),
        (lane(rule=Rule("claude", 3, None), running=2), None),
        (lane(rule=Rule("claude", 3, None), running=3), "3 of 3 runs of lane claude are running."),
        (
            lane(rule=Rule("claude", 3, None), running=2, ending=1),
            "3 of 3 runs of lane claude are running (1 of which have ended, and their work is to be confirmed gone).",
        ),
        (
            lane(rule=Rule("c*", 3, datetime(2026, 12, 1, 6, tzinfo=UTC)), running=3),
            "Lane claude is paused since 2026-12-01 06:00:00 UTC.",
        ),
        (lane(is_served=False), "No living worker serves lane claude."),
    ],
)
def test_why_a_lanes_runs_wait_is_a_sentence(state: LaneState, why: str | None) -> None:
    assert state.why_waiting == why


def test_a_waiting_run_is_told_its_place() -> None:
    full = lane(rule=Rule("claude", 1, None), running=1)
    assert full.why_this_waits(0) == "It waits: 1 of 1 runs of lane claude are running; it is next there."
    assert full.why_this_waits(4) == "It waits: 1 of 1 runs of lane claude are running; it is number 5 there."
    assert lane().why_this_waits(10_000) == "It waits in lane claude: more than 10,000 runs go before it."
