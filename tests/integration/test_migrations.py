"""Migrations: from nothing to what the code expects, repeatable, and what the database itself holds to."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects.postgresql import BYTEA, JSON, JSONB
from sqlalchemy.exc import IntegrityError, OperationalError

from reprieve.models.errors import SettingsError
from reprieve.models.rows import Row
from reprieve.stores import migrate as migrations
from reprieve.stores.database import Database
from reprieve.stores.migrate import current_revision, head_revision, is_current, migrate
from reprieve.stores.migrations import online
from reprieve.workers.bootstrap import Services
from tests.support.rows import new_run
from tests.support.waiting import eventually

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


# -- beside a fleet at work

#: A migration after the newest, with steps of `reprieve.stores.migrations.online`.
ONE_MORE = """
import sqlalchemy as sa
from alembic import op
from reprieve.stores.migrations.online import add_columns, create_index_online, drop_index_online, in_batches
revision, down_revision, branch_labels, depends_on = "next", {head!r}, None, None

def upgrade():
    add_columns("runs", sa.Column("extra", sa.Integer(), server_default="0", nullable=False))
{steps}
"""


@pytest.fixture
def one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives this version one more migration, of these lines."""
    config = migrations._config

    def give(steps: str) -> None:
        body = ONE_MORE.format(head=head_revision(), steps="".join(f"    {line}\n" for line in steps.splitlines()))
        (tmp_path / "next.py").write_text(body)

    def with_one_more() -> Config:
        known = config()
        ours = Path(migrations.__file__).parent / "migrations/versions"
        known.set_main_option("path_separator", "newline")
        known.set_main_option("version_locations", f"{ours}\n{tmp_path}")
        return known

    monkeypatch.setattr(migrations, "_config", with_one_more)
    return give


def index_is_valid(database: Database, name: str) -> bool | None:
    query = text("SELECT (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name))")
    return database.run(query, {"name": name})[0][0]


INDEX = 'create_index_online("runs_extra", "runs", ["extra", "id"], where="extra > 0")'


def test_a_migration_that_finds_a_table_in_use_lets_others_pass_and_goes_on_when_it_is_free(
    new_database: NewDatabase, one_more: Callable[[str], None]
) -> None:
    database, said = new_database(), list[str]()
    migrate(database)
    one_more(INDEX)
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as reader:
            reader.execute(text("SELECT count(*) FROM runs"))
            migrating = pool.submit(migrate, database, said.append)
            eventually(lambda: len([one for one in said if "trying again" in one]) >= 2)
            # Whoever comes later is let through in between.
            with database.begin() as later:
                later.execute(text("SET LOCAL lock_timeout = '10s'"))
                later.execute(text("UPDATE runs SET sends = sends"))
            assert not migrating.done()
        assert migrating.result(60) == "next"
    assert index_is_valid(database, "runs_extra")


def test_a_migration_that_was_interrupted_goes_on_where_it_was(
    new_database: NewDatabase, one_more: Callable[[str], None]
) -> None:
    database = new_database()
    migrate(database)
    one_more(INDEX + "\nraise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        migrate(database)
    assert index_is_valid(database, "runs_extra")
    with database.begin() as connection:
        assert current_revision(connection) == head_revision()
    one_more(INDEX)
    assert migrate(database) == "next"


def test_a_migration_whose_connection_is_cut_says_so_and_goes_on_when_it_is_called_again(
    new_database: NewDatabase, one_more: Callable[[str], None]
) -> None:
    database = new_database()
    migrate(database)
    cut = 'in_batches("SELECT pg_terminate_backend(pg_backend_pid()), :batch", "cutting")'
    one_more(f"{INDEX}\n{cut}")
    with pytest.raises(OperationalError, match="pg_terminate_backend"):
        migrate(database)
    one_more(INDEX)
    assert migrate(database) == "next"


def test_the_first_migration_that_is_interrupted_leaves_nothing_that_is_taken_for_anothers(
    new_database: NewDatabase,
) -> None:
    database = new_database()

    def interrupt(*call: Any) -> None:
        if "CREATE TABLE runs" in call[2]:
            raise KeyboardInterrupt

    event.listen(database.engine, "before_cursor_execute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        migrate(database)
    event.remove(database.engine, "before_cursor_execute", interrupt)
    assert database.run("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
    assert migrate(database) == head_revision()


def test_an_index_that_was_left_half_built_is_built_anew(
    new_database: NewDatabase, one_more: Callable[[str], None]
) -> None:
    database = new_database()
    migrate(database)
    add_spec = text("INSERT INTO run_specs (run_id, config, labels) VALUES (:id, '{}', '{}')")
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE run_specs DROP CONSTRAINT run_specs_run_id_fkey"))
        for _ in range(2):
            connection.execute(add_spec, {"id": uuid4()})
    one_more('create_index_online("specs_extra", "run_specs", ["config"], unique=True)')
    with pytest.raises(IntegrityError):
        migrate(database)
    assert index_is_valid(database, "specs_extra") is False
    database.run(text("DELETE FROM run_specs"))
    assert migrate(database) == "next"
    assert index_is_valid(database, "specs_extra") is True


def test_one_who_waits_for_another_migration_does_not_keep_it_from_building_an_index(
    new_database: NewDatabase, one_more: Callable[[str], None]
) -> None:
    database, said = new_database(), [list[str](), list[str]()]
    migrate(database)
    one_more(INDEX)
    with ThreadPoolExecutor(2) as pool:
        with database.begin() as reader:
            reader.execute(text("SELECT count(*) FROM runs"))
            both = [pool.submit(migrate, database, one.append) for one in said]
            eventually(lambda: any("Another migration is under way" in line for one in said for line in one))
        assert [one.result(60) for one in both] == ["next"] * 2


def test_a_long_step_says_how_far_it_is_and_what_is_done_in_batches_is_done_to_the_end(
    new_database: NewDatabase, one_more: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, said = new_database(), list[str]()
    migrate(database)
    monkeypatch.setattr(online, "TELL_EVERY", 0.01)
    monkeypatch.setattr(online, "BATCH", 10)
    some = "SELECT CAST(n AS text), '', '' FROM generate_series(1, 1001) n"
    database.run(text(f"INSERT INTO nodes (slot, name, namespace) {some}"))
    one_more(
        "in_batches(\"UPDATE nodes SET name = 'x' WHERE slot IN "
        "(SELECT slot FROM nodes WHERE name = '' LIMIT :batch)\", 'nodes')"
    )
    assert migrate(database, said.append) == "next"
    assert database.run(text("SELECT count(*) FROM nodes WHERE name = ''"))[0][0] == 0
    assert any("nodes: " in line and " rows done, since " in line for line in said)


def test_a_step_waits_for_a_table_for_longer_than_an_autovacuum_takes_to_give_way(services: Services) -> None:
    query = text("SELECT CAST(current_setting('deadlock_timeout') AS interval) < CAST(:patience AS interval)")
    assert services.database.run(query, {"patience": online.LOCK_PATIENCE})[0][0]


def test_a_check_that_is_replaced_holds_for_all_rows(services: Services) -> None:
    assert services.database.run(text("SELECT conname FROM pg_constraint WHERE NOT convalidated")) == []


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
    columns = {name for index in indexes for name in index["column_names"]}
    # Some never change; the others do when a run begins or ends, and its row moves anyway: never in a refresh.
    assert columns == {"id", "adapter", "lane", "priority", "not_before", "start_by", "status", "error_code"}
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
