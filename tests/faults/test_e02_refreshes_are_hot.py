"""E02: a refresh touches no index: nothing indexes what it writes, and each page has room for a row's next version."""

import pytest
from sqlalchemy import Connection, text

from reprieve.models.status import Proof
from reprieve.models.work import Work
from reprieve.stores.runs.refresh import write_proof
from reprieve.workers.bootstrap import Services
from tests.support.rows import running

pytestmark = pytest.mark.row("E02")

RUNS = 200
ROUNDS = 15
#: Tokens in one UPDATE: what the keepalive of a worker of 20 threads writes.
TOGETHER = 20


def _updates(connection: Connection) -> tuple[int, int]:
    """The updates of `runs` so far and those of them that touched no index, this session's included."""
    connection.execute(text("SELECT pg_stat_force_next_flush()"))
    connection.commit()
    query = text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'runs'")
    updates, hot = connection.execute(query).one()
    connection.commit()
    return updates, hot


def _refresh_again_and_again(services: Services, connection: Connection, works: list[Work]) -> None:
    for _ in range(ROUNDS):
        for first in range(0, len(works), TOGETHER):
            fences = [work.fence for work in works[first : first + TOGETHER]]
            ages = dict.fromkeys(fences, 1.0)
            assert write_proof(connection, fences, Proof.KEEPALIVE, ages) == set(fences)
            connection.commit()


def _vacuum(services: Services) -> None:
    with services.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM runs"))


def test_no_index_holds_what_a_refresh_writes(services: Services) -> None:
    query = text("SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'runs'::regclass")
    with services.database.begin() as connection:
        indexes = connection.execute(query).scalars().all()
    assert any("runs_in_lane" in index for index in indexes)
    written = ("updated_at", "last_proof", "output_at", "quiet_at", "longest_silence")
    assert [index for index in indexes if any(column in index for column in written)] == []


def test_the_table_leaves_room_on_its_pages_for_the_next_version_of_a_row(services: Services) -> None:
    query = text(
        "SELECT CAST(option_value AS int) FROM pg_class, pg_options_to_table(reloptions) "
        "WHERE oid = 'runs'::regclass AND option_name = 'fillfactor'"
    )
    with services.database.begin() as connection:
        fill_factor = connection.execute(query).scalar_one()
    assert 50 <= fill_factor <= 80


@pytest.mark.parametrize("vacuumed", [False, True], ids=["as claimed", "just vacuumed"])
def test_more_than_99_of_100_refreshes_touch_no_index(services: Services, vacuumed: bool) -> None:
    works = [running(services) for _ in range(RUNS)]
    if vacuumed:
        _vacuum(services)
    with services.database.engine.connect() as connection:
        updates_before, hot_before = _updates(connection)
        _refresh_again_and_again(services, connection, works)
        updates, hot = _updates(connection)
    assert updates - updates_before == RUNS * ROUNDS
    assert (hot - hot_before) / (updates - updates_before) > 0.99


def test_refreshes_do_not_make_the_table_grow(services: Services) -> None:
    works = [running(services) for _ in range(RUNS)]
    size = text("SELECT pg_relation_size('runs') + pg_indexes_size('runs')")
    with services.database.engine.connect() as connection:
        before = connection.execute(size).scalar_one()
        connection.commit()
        _refresh_again_and_again(services, connection, works)
        assert connection.execute(size).scalar_one() < 1.25 * before
