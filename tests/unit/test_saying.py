"""What a report may say, and what several of them come to."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprieve.models.errors import InvalidRequest
from reprieve.models.saying import (
    MAX_LINE,
    MAX_NAME,
    MAX_RESULT_BYTES,
    MAX_SENTENCE,
    MOST_NAMES,
    MOST_USED,
    NOTHING,
    NOTHING_SAID,
    Report,
    Said,
    in_numbers,
    of_run,
    percent,
    report_of,
    report_of_line,
    sentences_of,
)

USAGE = st.dictionaries(st.sampled_from(["tokens", "cost", "calls"]), st.integers(0, 1000))
REPORTS = st.builds(
    Report,
    st.none() | st.floats(0, 1),
    st.none() | st.text(max_size=5),
    st.none() | st.sampled_from(["1", '"two"']),
    USAGE,
)


def refused(given: object) -> str:
    with pytest.raises(InvalidRequest) as refusal:
        report_of(given)
    return str(refusal.value)


# -- one report


def test_a_report_has_any_of_what_a_run_can_say() -> None:
    said = {"progress": 0.4, "say": "epoch 3 of 8", "result": {"loss": [0.5, None]}, "usage": {"tokens": 1200}}
    report = report_of(said)
    assert report == Report(0.4, "epoch 3 of 8", '{"loss":[0.5,null]}', {"tokens": 1200})
    assert report.as_given() == said
    assert report_of_line(json.dumps(said).encode()) == report


@pytest.mark.parametrize("progress", [0, 0.0, 1, 1.0, 0.999999])
def test_progress_is_from_none_of_it_to_all(progress: float) -> None:
    assert report_of({"progress": progress}).progress == progress


@pytest.mark.parametrize("progress", [-0.000001, 1.000001, 40, True, "0.4", float("nan"), float("inf"), [0.4]])
def test_any_other_progress_is_refused(progress: object) -> None:
    assert refused({"progress": progress}).endswith("give a number from 0 to 1.")


def test_a_sentence_is_one_line_and_cut_where_it_is_too_long() -> None:
    assert report_of({"say": "  epoch 3\r\n\tof 8\n"}).sentence == "epoch 3 of 8"
    assert report_of({"say": "x" * MAX_SENTENCE}).sentence == "x" * MAX_SENTENCE
    assert report_of({"say": "x" * (MAX_SENTENCE + 1)}).sentence == "x" * (MAX_SENTENCE - 1) + "…"
    assert report_of({"say": "a\0b\ud800"}).sentence == "a␀b\\ud800"
    assert refused({"say": 3}) == "say is 3; give a sentence."


def test_a_result_is_any_json_up_to_its_bound_to_the_byte() -> None:
    assert report_of({"result": "x" * (MAX_RESULT_BYTES - 2)}).result == f'"{"x" * (MAX_RESULT_BYTES - 2)}"'
    assert "65537 bytes" in refused({"result": "x" * (MAX_RESULT_BYTES - 1)})
    assert "65538 bytes" in refused({"result": "é" * (MAX_RESULT_BYTES // 2)})
    assert report_of({"result": [0, False, "", {}]}).result == '[0,false,"",{}]'


def test_a_result_holds_nothing_that_postgresql_cannot() -> None:
    assert report_of({"result": {"a\0": "\ud800"}}).result == '{"a␀":"\\\\ud800"}'


def test_a_result_that_is_nested_without_end_is_refused_and_not_a_crash() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in refused({"result": deep})
    with pytest.raises(InvalidRequest, match=r"no JSON|nested too deeply"):
        report_of_line(b'{"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_usage_has_names_and_numbers_within_bounds() -> None:
    most = {f"n{number}": number for number in range(MOST_NAMES)}
    assert report_of({"usage": most}).usage == most
    assert "51 names" in refused({"usage": most | {"one more": 1}})
    assert report_of({"usage": {"x" * MAX_NAME: MOST_USED}}).usage == {"x" * MAX_NAME: 10**15}
    assert "65 characters" in refused({"usage": {"x" * (MAX_NAME + 1): 1}})
    assert report_of({"usage": {"cost": 0.25, "tokens": 3.0}}).usage == {"cost": 0.25, "tokens": 3}


@pytest.mark.parametrize(
    "number", [-1, 1.1e15, True, "12", None, float("nan"), float("inf"), pytest.param(10**5000, id="long")]
)
def test_what_is_no_amount_is_refused_by_its_name(number: object) -> None:
    assert refused({"usage": {"tokens": number}}).startswith("usage: 'tokens' is ")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0b", "\ud800", "\u202eevil"])
def test_what_is_no_name_is_refused(name: str) -> None:
    assert "is no name" in refused({"usage": {name: 1}})


def test_names_that_are_one_when_they_are_masked_add_up() -> None:
    assert report_of({"usage": {"one": 1, "two": 2}}, lambda _: "***").usage == {"***": 3}


@pytest.mark.parametrize("given", [[], "progress", 4, None])
def test_what_is_no_object_is_refused(given: object) -> None:
    assert refused(given).startswith("a report is an object with any of progress, say, result, usage")


def test_what_is_not_known_or_says_nothing_is_refused() -> None:
    assert refused({"progres": 0.4}) == "a report has any of progress, say, result, usage, and no 'progres'."
    assert refused({}) == "a report says something; give any of progress, say, result, usage."
    assert refused({"progress": None, "usage": {}}) == refused({})


@pytest.mark.parametrize("line", [b"half", b"{", b"\xff\xfe", b'{"progress":0.4}}', b"[1, 2"])
def test_a_line_that_is_no_json_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidRequest, match="it is no JSON"):
        report_of_line(line)


def test_a_line_is_read_up_to_its_bound() -> None:
    line = b'{"progress":1}'
    assert report_of_line(line.ljust(MAX_LINE)).progress == 1
    with pytest.raises(InvalidRequest, match="more than 524288 bytes"):
        report_of_line(line.ljust(MAX_LINE + 1))


def test_whatever_is_said_and_whatever_is_wrong_with_it_is_masked() -> None:
    def mask(text: str) -> str:
        return text.replace("12345", "***")

    report = report_of(
        {"say": "x12345", "result": {"k12345": [12345, 0.5, True]}, "usage": {"n12345": 1, "m": 12345}}, mask
    )
    assert (report.sentence, report.result) == ("x***", '{"k***":["***",0.5,true]}')
    assert report.usage == {"n***": 1, "m": 12345}
    for wrong in ({"progress": 12345}, {"12345": 1}, {"usage": {"12345": "x"}}, {"usage": {"\n12345": 1}}, "12345"):
        with pytest.raises(InvalidRequest) as refusal:
            report_of(wrong, mask)
        assert "12345" not in str(refusal.value)
    with pytest.raises(InvalidRequest) as refusal:
        report_of_line(b" " * 56 + b"12345", mask)
    assert "123" not in str(refusal.value)


# -- several of them


@given(REPORTS, REPORTS, REPORTS)
def test_it_does_not_matter_which_reports_are_put_together_first(one: Report, two: Report, three: Report) -> None:
    assert one.then(two).then(three) == one.then(two.then(three))
    assert NOTHING.then(one) == one


@given(st.lists(REPORTS), st.lists(st.integers(0, 20), max_size=30))
def test_reports_that_come_again_in_any_order_count_once(reports: list[Report], again: list[int]) -> None:
    whole = NOTHING_SAID
    for number, report in enumerate(reports, start=1):
        whole = whole.take(number, report)
    repeated = whole
    for number in again:
        if 0 < number <= len(reports):
            repeated = repeated.take(number, reports[number - 1])
    assert repeated == whole
    tokens = sum(report.usage.get("tokens", 0) for report in reports)
    assert whole.report.usage.get("tokens", 0) == tokens


def test_what_is_newest_counts_and_what_is_not_said_again_stays() -> None:
    first = report_of({"progress": 0.9, "say": "almost", "result": 1, "usage": {"calls": 1}})
    later = report_of({"progress": 0.2, "usage": {"calls": 2, "tokens": 5}})
    assert first.then(later) == Report(0.2, "almost", "1", {"calls": 3, "tokens": 5})


def test_a_report_with_one_name_too_many_is_refused_and_what_was_there_stays() -> None:
    said = Said(1, report_of({"usage": {f"n{number}": 1 for number in range(MOST_NAMES)}}))
    assert said.take(2, report_of({"usage": {"n0": 1}})).report.usage["n0"] == 2
    with pytest.raises(InvalidRequest, match="more than 50 names"):
        said.take(2, report_of({"progress": 1, "usage": {"another": 1}}))


# -- a run


def row(attempt: int, **columns: object) -> dict[str, object]:
    return {
        "attempt": attempt,
        "progress": None,
        "sentence": None,
        "at": None,
        "usage": {},
        "result_bytes": None,
    } | columns


def test_a_new_attempt_begins_anew_and_what_was_used_adds_up() -> None:
    first = row(1, progress=0.9, sentence="almost", at="then", usage={"tokens": 5, "calls": 1}, result_bytes=7)
    second = row(2, progress=0.1, sentence="", at="now", usage={"tokens": 2})
    assert of_run([second, first], 2) == {
        "progress": 0.1,
        "sentence": None,
        "at": "now",
        "usage": {"tokens": 7, "calls": 1},
        "result_bytes": 7,
    }
    silent = of_run([first], 2)
    assert silent == {
        "progress": None,
        "sentence": None,
        "at": None,
        "usage": {"tokens": 5, "calls": 1},
        "result_bytes": 7,
    }
    assert of_run([], 1) is None


def test_only_what_is_done_is_a_hundred_percent() -> None:
    assert [percent(one) for one in (0, 0.004, 0.29, 0.999999, 1)] == ["0 %", "0 %", "29 %", "99 %", "100 %"]


def test_what_was_said_is_told_in_sentences() -> None:
    now = datetime(2026, 12, 1, tzinfo=UTC)
    at = now - timedelta(seconds=12)
    whole = row(
        1, progress=0.4, sentence="epoch 3 of 8", at=at, usage={"tokens": 1200, "cost_usd": 0.421}, result_bytes=9
    )
    assert sentences_of(of_run([whole], 1), now) == [
        "It said 12 s ago: 40 %, epoch 3 of 8",
        "By its own account it used: cost_usd 0.421, tokens 1,200.",
        "It gave a result of 9 bytes of JSON; `reprieve result` prints it.",
    ]
    assert sentences_of(None, now) == sentences_of(of_run([row(1)], 1), now) == []
    assert in_numbers({"b": 1_234_567.5, "a": 0.1 + 0.2}) == "a 0.3, b 1,234,568"
