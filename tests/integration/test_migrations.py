"""Migrations: from nothing to what the code expects, repeatable, and what the database itself holds to."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, make_url, text
from sqlalchemy.dialects.postgresql import BYTEA, JSON, JSONB
from sqlalchemy.exc import IntegrityError

from reprieve.models.errors import SettingsError
from reprieve.models.rows import Row
from reprieve.stores.database import Database
from reprieve.stores.migrate import _config, current_revision, head_revision, is_current, migrate
from reprieve.workers.bootstrap import Services
from tests.support.rows import new_run

#: Everything by which two databases may differ that Alembic does not look at: defaults, checks, keys, indexes, options.
CATALOGUE = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text, a.attidentity::text,
       coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT c.relname, k.conname, pg_get_constraintdef(k.oid), '', '', ''
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
UNION ALL
SELECT tablename, indexname, indexdef, '', '', '' FROM pg_indexes
WHERE schemaname = 'public' AND tablename NOT LIKE 'log_segments\\_%'
UNION ALL
SELECT relname, 'options', coalesce(array_to_string(reloptions, ','), ''), '', '', ''
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""

#: How Alembic compares: defaults too, and not the partitions, which are made as the days pass.
COMPARED = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": lambda name, kind, _: not (kind == "table" and name.startswith("log_segments_")),
}

NewDatabase = Callable[[], Database]


@pytest.fixture
def new_database(services: Services) -> Iterator[NewDatabase]:
    """Makes empty databases on the session's server, and drops them."""
    made: list[tuple[str, Database]] = []
    url = make_url(services.settings.require_database_url())
    server = create_engine(url, isolation_level="AUTOCOMMIT")

    def make() -> Database:
        name = f"test_{uuid4().hex}"
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        made.append((name, Database(url.set(database=name).render_as_string(hide_password=False))))
        return made[-1][1]

    yield make
    for name, database in made:
        database.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


def catalogue(connection: Connection) -> list[tuple[str, ...]]:
    rows = connection.execute(text(CATALOGUE))
    return sorted(tuple(row) for row in rows if row[0] != "alembic_version")


# -- applying


def test_the_migrations_of_an_empty_database_lead_to_the_newest_revision(new_database: NewDatabase) -> None:
    database = new_database()
    with database.begin() as connection:
        assert current_revision(connection) is None
    assert migrate(database) == head_revision()
    with database.begin() as connection:
        assert current_revision(connection) == head_revision()


def test_a_migrated_database_is_what_the_rows_say(new_database: NewDatabase) -> None:
    database = new_database()
    migrate(database)
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts=COMPARED)
        assert compare_metadata(context, Row.metadata) == []


def test_a_migrated_database_has_the_checks_keys_indexes_and_options_that_the_rows_say(
    new_database: NewDatabase,
) -> None:
    migrated, created = new_database(), new_database()
    migrate(migrated)
    Row.metadata.create_all(created.engine)
    with migrated.begin() as one, created.begin() as other:
        assert catalogue(one) == catalogue(other)


def test_migrating_again_changes_nothing(services: Services) -> None:
    run = new_run(services)
    with services.database.begin() as connection:
        before = catalogue(connection)
    assert migrate(services.database) == head_revision()
    with services.database.begin() as connection:
        assert catalogue(connection) == before
    assert services.runs.get(run.id).id == run.id


def test_two_who_migrate_an_empty_database_at_once_both_succeed(new_database: NewDatabase) -> None:
    database = new_database()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(migrate, [database, database])) == [head_revision()] * 2


THEIR_ALEMBIC = "CREATE TABLE alembic_version (version_num varchar(32)); INSERT INTO alembic_version VALUES ('{}')"


@pytest.mark.parametrize(
    "theirs",
    [
        THEIR_ALEMBIC.format("5ca1ab1e"),
        THEIR_ALEMBIC.format("0003"),
        THEIR_ALEMBIC.format(head_revision()),
        "CREATE TABLE runs (id int)",
    ],
    ids=["of their own Alembic", "that counts as ours does", "and has come as far", "of their own"],
)
def test_tables_of_a_service_that_have_our_names_are_left_alone_and_ours_go_into_a_schema(
    new_database: NewDatabase, theirs: str
) -> None:
    database = new_database()
    database.run(text(theirs))
    with database.begin() as connection:
        before = catalogue(connection)
    with pytest.raises(SettingsError, match=r"has (alembic_version|runs) of somebody else's.*REPRIEVE_DATABASE_SCHEMA"):
        migrate(database)
    assert not is_current(database)
    beside = Database(f"{database._url}?search_path=reprieve")
    assert migrate(beside) == head_revision()
    assert is_current(beside)
    beside.dispose()
    with database.begin() as connection:
        assert catalogue(connection) == before


# -- what the database itself holds to


def test_an_event_cannot_be_changed(services: Services) -> None:
    run = new_run(services)
    with pytest.raises(IntegrityError, match="append-only"), services.database.begin() as connection:
        connection.execute(text("UPDATE run_events SET kind = 'failed' WHERE run_id = :id"), {"id": run.id})
    assert [event.kind for event in services.runs.events(run.id)] == ["enqueued"]


def test_a_run_that_is_deleted_takes_with_it_what_belongs_to_it(services: Services) -> None:
    gone, kept = new_run(services), new_run(services)
    with services.database.begin() as connection:
        connection.execute(text("DELETE FROM runs WHERE id = :id"), {"id": gone.id})
    assert services.runs.events(gone.id) == []
    assert len(services.runs.events(kept.id)) == 1


def test_a_runs_row_is_narrow(services: Services) -> None:
    columns = inspect(services.database.engine).get_columns("runs")
    assert [column["name"] for column in columns if isinstance(column["type"], BYTEA | JSON | JSONB)] == []
    elsewhere = {"config", "labels", "handle", "outcome", "detail", "host", "worker_node"}
    assert not elsewhere & {column["name"] for column in columns}


def test_no_index_holds_what_a_refresh_writes_and_pages_have_room_for_it(services: Services) -> None:
    indexes = inspect(services.database.engine).get_indexes("runs")
    # Some never change; the others do when a run begins or ends, and its row moves anyway.
    held = {"id", "adapter", "lane", "status", "error_code"}
    assert {name for index in indexes for name in index["column_names"]} == held
    with services.database.begin() as connection:
        definitions = (
            connection.execute(text("SELECT indexdef FROM pg_indexes WHERE tablename = 'runs'")).scalars().all()
        )
        options = connection.execute(text("SELECT reloptions FROM pg_class WHERE relname = 'runs'")).scalar_one()
    assert len(definitions) >= 3
    assert not [one for one in definitions if "updated_at" in one or "last_proof" in one]
    assert options == ["fillfactor=70"]


def test_a_database_is_current_that_is_newer_than_this_version_and_none_that_is_older(
    new_database: NewDatabase,
) -> None:
    database = new_database()
    assert not is_current(database)
    migrate(database)
    assert is_current(database)

    def put(revision: str) -> None:
        with database.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})

    put("9999")
    assert is_current(database), "during an upgrade, the database goes first"
    put("0001")
    assert not is_current(database)


def test_indexes_that_were_left_unfinished_are_made_by_the_next_call(new_database: NewDatabase) -> None:
    """They are made outside of a transaction: what was done before a kill stays."""
    database, config = new_database(), _config()
    lists = ScriptDirectory.from_config(config).get_revision("0020")
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, str(lists.down_revision))
        for _ in "12":
            connection.execute(
                text(
                    "INSERT INTO runs (id, adapter, out_of_process_liveness) "
                    "VALUES (gen_random_uuid(), 'process', false)"
                )
            )
        connection.commit()
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(IntegrityError):
            connection.execute(text("CREATE UNIQUE INDEX CONCURRENTLY runs_by_lane ON runs (lane)"))
        connection.rollback()
        connection.execution_options(isolation_level="READ COMMITTED")
        for missing in (None, "run_specs_labels"):
            command.upgrade(config, "0020")
            whole = connection.execute(text(WHOLE_INDEXES)).scalars().all()
            assert {"runs_by_lane", "runs_by_status", "run_specs_labels", "run_specs_by_end"} <= set(whole)
            # As it is for one that was ended before it could note that it was done.
            connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": lists.down_revision})
            if missing is None:
                connection.execute(text("DROP INDEX run_specs_labels"))
            connection.commit()


WHOLE_INDEXES = "SELECT indexrelid::regclass::text FROM pg_index WHERE indisvalid"
