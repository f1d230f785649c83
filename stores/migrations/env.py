"""Alembic's entry: runs the migrations on the connection that `stores.migrate` opened."""

from alembic import context

from reprieve.models.rows import Row

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("Run migrations with `reprieve migrate`, which knows the database and takes the lock.")

context.configure(
    connection=connection, target_metadata=Row.metadata, compare_type=True, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
