"""D16: whatever of a log cannot be read is named by every reader, with why; and what is gone is no empty success."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from typer.testing import CliRunner

from reprieve.cli.main import app
from reprieve.models import archive as form
from reprieve.models.work import End, Outcome, Work
from reprieve.stores import archive as archive_module
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log, expire_logs
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from tests.support.http import calling
from tests.support.rows import chunk, ingest, running

pytestmark = [pytest.mark.row("D16"), pytest.mark.usefixtures("every_log_is_large")]

COUNT = 12


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with calling(services, raising=False) as made:
        yield made


def line(number: int) -> bytes:
    return b"line %d\n" % number


def ended(services: Services, *, count: int = COUNT, printed: Callable[[int], bool] = lambda _: True) -> Work:
    """A run that printed lines 1 to `count`, each a segment of its own, and ended two minutes ago."""
    work = running(services)
    for number in filter(printed, range(1, count + 1)):
        ingest(services, [chunk(work, number, line(number), stream="stderr" if number == 2 else "stdout")])
    finish(services, [End.by_result(work.fence, Outcome(), count)])
    with services.database.begin() as connection:
        moved = "UPDATE run_attempts SET finished_at = finished_at - interval '2 minutes' WHERE run_id = :id"
        connection.execute(text(moved), {"id": work.run_id})
    return work


def closed(services: Services, monkeypatch: pytest.MonkeyPatch, **how: object) -> Work:
    """The same with its log in the archive, a frame for each line."""
    monkeypatch.setattr(form, "FRAME_BYTES", 1)
    monkeypatch.setattr(archive_module, "FRAMES_KEPT", 0)
    work = ended(services, **how)  # type: ignore[arg-type]
    close_log(services, work.run_id, 1)
    forget(services)
    return work


def forget(services: Services) -> None:
    """As a process would that has not read the log before."""
    services.archives._unpacked.clear()


def object_of(services: Services, work: Work) -> Path:
    (found,) = (services.settings.data_dir / "archive" / "runs" / str(work.run_id)).iterdir()
    return found


def drop_segment(services: Services, work: Work, first: int) -> None:
    with services.database.begin() as connection:
        connection.execute(
            text("DELETE FROM log_segments WHERE run_id = :id AND first_seq = :first"),
            {"id": work.run_id, "first": first},
        )


def damage(services: Services, work: Work, line_number: int, how: str = "flip") -> None:
    """Spoil the frame of one line in the archive."""
    archived = services.archives.find(work.run_id, 1)
    assert archived is not None
    _, offset, size = next(frame for frame in archived.frames if frame[0] == line_number)
    path = object_of(services, work)
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[offset + size // 2] ^= 0xFF
    elif how == "head":
        data[offset : offset + 4] = b"\0\0\0\0"
    elif how == "other":  # A frame that is whole, and another's.
        data[offset : offset + size] = data[:size] if len(data[:size]) == size else data[offset : offset + size]
    elif how == "cut":
        del data[offset:]
    path.write_bytes(data)


@dataclass
class Told:
    """What each reader of a log has told: its lines, and its gaps with why."""

    lines: list[int]
    gaps: list[tuple[int, int, str]]


def told_by(services: Services, client: TestClient, work: Work) -> dict[str, Told]:
    """Every reader, in the same form."""
    readers = {
        "page": _page(client, work),
        "ndjson": _ndjson(client, work),
        "live": _live(client, work),
        "logs": _logs(work),
        "logs -f": _logs(work, "-f"),
    }
    forget(services)
    return readers


def _page(client: TestClient, work: Work) -> Told:
    body = client.get(f"/v1/runs/{work.run_id}/log").json()
    return Told(
        [one["seq"] for one in body["chunks"]], [(one["first"], one["last"], one["why"]) for one in body["gaps"]]
    )


def _ndjson(client: TestClient, work: Work) -> Told:
    *items, end = map(json.loads, client.get(f"/v1/runs/{work.run_id}/attempts/1/log.ndjson").text.splitlines())
    gaps = [one["gap"] for one in items if "gap" in one]
    chunks = [one["seq"] for one in items if "seq" in one]
    assert end == {"end": {"whole": not gaps, "chunks": len(chunks), "gaps": len(gaps)}}
    return Told(chunks, [(one["first"], one["last"], one["why"]) for one in gaps])


def _live(client: TestClient, work: Work) -> Told:
    told = Told([], [])
    name = ""
    for row in client.get(f"/v1/runs/{work.run_id}/log/live").text.splitlines():
        key, _, value = row.partition(": ")
        name = value if key == "event" else name
        if key == "data" and name == "output":
            told.lines += [one["seq"] for one in json.loads(value)["chunks"]]
        elif key == "data" and name == "gap":
            told.gaps.append(tuple(json.loads(value)[part] for part in ("first", "last", "why")))  # type: ignore[arg-type]
    assert name == "end"
    return told


WORDS = {"are missing": "missing", "are lost": "lost", "were removed": "removed", "are late": "late"}


def _logs(work: Work, *options: str) -> Told:
    done = CliRunner().invoke(app, ["logs", *options, str(work.run_id)])
    lines = [int(row.split()[1]) for row in (done.stdout_bytes + b"").decode().splitlines() if row.startswith("line")]
    lines += [int(row.split()[1]) for row in done.stderr.splitlines() if row.startswith("line")]
    gaps = []
    for row in done.stderr.splitlines():
        if row.startswith("reprieve: attempt 1: chunks "):
            words = row.removeprefix("reprieve: attempt 1: chunks ").split()
            why = next(why for said, why in WORDS.items() if said in row)
            gaps.append((int(words[0]), int(words[2]), why))
    assert done.exit_code == (1 if gaps else 0)
    return Told(sorted(lines), gaps)


def assert_all_tell(services: Services, client: TestClient, work: Work, expected: Told) -> None:
    for reader, told in told_by(services, client, work).items():
        assert told == expected, reader


def download(client: TestClient, work: Work, **options: object) -> object:
    return client.get(f"/v1/runs/{work.run_id}/attempts/1/output/stdout", **options)  # type: ignore[arg-type]


def without(*numbers: int) -> Told:
    return Told([number for number in range(1, COUNT + 1) if number not in numbers], [])


# -- parts that are gone


def test_a_segment_that_is_gone_is_the_same_gap_to_every_reader(services: Services, client: TestClient) -> None:
    work = ended(services)
    assert_all_tell(services, client, work, without())
    drop_segment(services, work, 5)
    drop_segment(services, work, COUNT)
    expected = without(5, COUNT)
    expected.gaps = [(5, 5, "lost"), (COUNT, COUNT, "lost")]
    assert_all_tell(services, client, work, expected)
    answer = download(client, work)
    assert answer.status_code == 200
    assert answer.content == b"".join(line(number) for number in range(1, COUNT) if number not in (2, 5))
    assert answer.headers["Reprieve-Missing-Chunks"] == f"5, {COUNT}"
    assert f"the chunks 5, {COUNT} are lost" in explain(services, work.run_id).text


@pytest.mark.parametrize("how", ["flip", "head", "other"])
def test_a_frame_that_is_damaged_costs_its_own_lines_and_no_other(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    work = closed(services, monkeypatch)
    damage(services, work, 7, how)
    expected = without(7)
    expected.gaps = [(7, 7, "lost")]
    assert_all_tell(services, client, work, expected)
    answer = download(client, work)
    assert (answer.status_code, answer.headers["Reprieve-Missing-Chunks"]) == (200, "7")
    assert b"line 6\nline 8\n" in answer.content
    assert "the chunks 7 are lost" in explain(services, work.run_id).text


def test_an_object_that_is_cut_off_gives_what_comes_before(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch)
    damage(services, work, 9, "cut")
    expected = without(9, 10, 11, 12)
    expected.gaps = [(9, 12, "lost")]
    assert_all_tell(services, client, work, expected)


def test_chunks_that_nobody_has_are_missing_and_not_lost(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch, printed=lambda number: number not in (3, 4, COUNT))
    damage(services, work, 6)
    expected = without(3, 4, 6, COUNT)
    expected.gaps = [(3, 4, "missing"), (6, 6, "lost"), (COUNT, COUNT, "missing")]
    assert_all_tell(services, client, work, expected)
    assert download(client, work).headers["Reprieve-Missing-Chunks"] == f"3-4, 6, {COUNT}"


def test_what_came_after_the_archive_was_written_is_read_where_the_archive_is_lost(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch, printed=lambda number: number != COUNT)
    ingest(services, [chunk(work, COUNT, line(COUNT))])
    object_of(services, work).unlink()
    assert_all_tell(services, client, work, Told([COUNT], [(1, COUNT - 1, "lost")]))
    assert download(client, work).content == line(COUNT)


def test_an_object_that_was_put_back_is_read_again_and_nothing_is_said_of_it(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch)
    path = object_of(services, work)
    data = path.read_bytes()
    path.unlink()
    assert download(client, work).status_code == 410
    assert "are lost" in explain(services, work.run_id).text
    path.write_bytes(data)
    forget(services)
    assert_all_tell(services, client, work, without())
    assert "are lost" not in explain(services, work.run_id).text


# -- all of it is gone, or none of it ever was


def test_a_log_whose_object_is_gone_is_lost_and_not_to_be_tried_again(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch)
    object_of(services, work).unlink()
    for path in ("log", "attempts/1/output/stdout", "attempts/1/log.ndjson"):
        answer = client.get(f"/v1/runs/{work.run_id}/{path}")
        assert (answer.status_code, answer.json()["type"]) == (410, "urn:reprieve:problem:log-lost")
        assert "retry-after" not in answer.headers
    assert download(client, work, headers={"Range": "bytes=0-3"}).status_code == 410
    assert _live(client, work) == _logs(work) == Told([], [(1, COUNT, "lost")])
    raw = CliRunner().invoke(app, ["logs", "--stream", "stdout", "--raw", str(work.run_id)])
    assert (raw.exit_code, raw.stdout) == (1, "")
    assert f"chunks 1 to {COUNT} are lost" in raw.stderr


def test_what_a_reader_has_in_memory_does_not_say_that_the_object_is_there(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch)
    archives = services.archives
    assert len(list(archives.read(work.run_id, 1, 0))) == COUNT
    in_memory = dict(archives._unpacked)
    forget(services)
    object_of(services, work).unlink()
    assert list(archives.read(work.run_id, 1, 0)) == []
    archives._unpacked.update(in_memory)
    assert list(archives.read(work.run_id, 1, COUNT - 1))
    found = archives.find(work.run_id, 1)
    assert found is not None
    assert found.lost.count == COUNT


def test_a_log_that_retention_removed_is_removed_to_every_reader(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch)
    expire(services)
    for path in ("log", "attempts/1/output/stdout", "attempts/1/log.ndjson"):
        answer = client.get(f"/v1/runs/{work.run_id}/{path}")
        assert (answer.status_code, answer.json()["type"]) == (410, "urn:reprieve:problem:log-removed")
        assert "older than the retention" in answer.json()["detail"]
    assert download(client, work, headers={"Range": "bytes=-5"}).status_code == 410
    assert _live(client, work) == _logs(work) == _logs(work, "-f") == Told([], [(1, COUNT, "removed")])
    assert "was removed at" in explain(services, work.run_id).text
    assert "are lost" not in explain(services, work.run_id).text


def expire(services: Services) -> None:
    with services.database.begin() as connection:
        connection.execute(text("UPDATE log_archives SET written_at = written_at - interval '3 days'"))
        connection.execute(text("UPDATE runs SET finished_at = finished_at - interval '3 days'"))
    kept = replace(services, settings=services.settings.model_copy(update={"log_retention_days": 1}))
    assert expire_logs(kept) == 1


def test_what_came_after_a_log_was_removed_is_read_and_the_rest_is_said_to_be_removed(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch, printed=lambda number: number != COUNT)
    expire(services)
    ingest(services, [chunk(work, COUNT, line(COUNT))])
    assert_all_tell(services, client, work, Told([COUNT], [(1, COUNT - 1, "removed")]))
    answer = download(client, work)
    assert (answer.status_code, answer.content) == (200, line(COUNT))
    assert answer.headers["Reprieve-Missing-Chunks"] == f"1-{COUNT - 1}"


def test_a_run_that_printed_nothing_has_an_honest_empty_log(services: Services, client: TestClient) -> None:
    work = ended(services, count=0)
    assert_all_tell(services, client, work, Told([], []))
    answer = download(client, work)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "Reprieve-Missing-Chunks" not in answer.headers


def test_a_stream_that_is_empty_beside_another_that_is_whole_is_an_honest_empty_one(
    services: Services, client: TestClient
) -> None:
    work = ended(services)
    answer = client.get(f"/v1/runs/{work.run_id}/attempts/1/output/other")
    assert (answer.status_code, answer.content) == (200, b"")
    drop_segment(services, work, 5)  # It may have been of that stream.
    assert client.get(f"/v1/runs/{work.run_id}/attempts/1/output/other").status_code == 410


def test_an_archive_that_does_not_answer_is_to_be_tried_again_and_nothing_is_said_to_be_lost(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = closed(services, monkeypatch)
    folder = services.settings.data_dir / "archive"
    away = folder.rename(folder.with_name("unmounted"))
    answer = download(client, work)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "event: unavailable" in client.get(f"/v1/runs/{work.run_id}/log/live").text
    away.rename(folder)
    assert_all_tell(services, client, work, without())
    assert "are lost" not in explain(services, work.run_id).text


# -- the form of it


def test_a_download_for_people_says_at_its_end_what_is_missing_and_one_that_is_whole_is_its_bytes(
    services: Services, client: TestClient
) -> None:
    work = ended(services)
    path = f"/v1/runs/{work.run_id}/attempts/1/output/stdout"
    whole = client.get(path).content
    assert client.get(path, params={"told": "true"}).content == whole
    drop_segment(services, work, 5)
    answer = client.get(path, params={"told": "true"})
    *_, last = answer.text.splitlines()
    assert last.startswith("[reprieve: this log is not whole: chunks 5 are lost")
    assert answer.text.startswith("line 1\n")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert client.get(path).content == whole.replace(line(5), b"")
    part = client.get(path, headers={"Range": "bytes=7-13"})
    assert (part.status_code, part.content, part.headers["Reprieve-Missing-Chunks"]) == (206, whole[7:14], "5")


def test_a_log_with_many_gaps_has_a_header_of_bounded_length_that_says_how_many_more_there_are(
    services: Services, client: TestClient
) -> None:
    work = running(services)
    ingest(services, [chunk(work, number, b"x") for number in range(2, 2002, 2)])
    finish(services, [End.by_result(work.fence, Outcome(), 2000)])
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '2 minutes'"))
    answer = download(client, work)
    told = answer.headers["Reprieve-Missing-Chunks"]
    assert told.startswith("1, 3, 5, ")
    assert told.endswith("; more=980")
    assert len(told) < 200
    page = client.get(f"/v1/runs/{work.run_id}/log").json()
    assert len(page["gaps"]) == 100
    assert page["more_gaps"] == 900


def test_what_is_lost_while_it_is_sent_ends_the_download_as_cut_off(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reprieve.api import downloads

    monkeypatch.setattr(downloads, "TURN_BYTES", 1)
    work = closed(services, monkeypatch)
    measure = downloads._measure

    def then_lose(*given: object) -> object:
        found = measure(*given)  # type: ignore[arg-type]
        object_of(services, work).unlink()
        forget(services)
        return found

    monkeypatch.setattr(downloads, "_measure", then_lose)
    with (
        calling(services) as strict,
        pytest.raises(RuntimeError, match="response already started"),
    ):
        download(strict, work)
