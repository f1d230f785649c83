"""Notices, and the rules of whom to tell. New tables, and a trigger on each of two others: no row is written.

Whoever writes what a notice tells of owes it in the same transaction, an earlier release too.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
TIME = postgresql.TIMESTAMP(timezone=True)
RECEIVER = """COALESCE(lower("substring"(url, '^[^:]*://(?:[^/?#]*@)?([^/?#]{1,255})'::text)), ''::text)"""
OWED, SETTLED = sa.text("state = 'owed'"), sa.text("state <> 'owed'")

# owe notices: for what has just happened to a run, one to each of its own addresses and to that of each rule that fits;
# one address is told once. What is told is the event's kind; a rule for what became of the run with it is told, too.
# Its tables are found whatever the writer's search path is, since that may be a service's.
OWE_NOTICES = """
CREATE FUNCTION owe_notices() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    told text := 'suspected';
    became text;
BEGIN
    IF NOT EXISTS (SELECT FROM notice_rules)
       AND (SELECT s.notify FROM run_specs s WHERE s.run_id = NEW.run_id) IS NULL THEN
        RETURN NULL;  -- Which is all that most fleets pay.
    END IF;
    IF TG_TABLE_NAME = 'run_events' THEN
        told := NEW.kind;
    ELSIF EXISTS (SELECT FROM sparings s WHERE s.run_id = NEW.run_id AND s.attempt = NEW.attempt
                  AND s.silent_since = NEW.silent_since AND s.judgement <> NEW.judgement) THEN
        RETURN NULL;
    END IF;
    SELECT CASE r.status WHEN 'queued' THEN 'retried' ELSE r.status END INTO became FROM runs r
    WHERE r.id = NEW.run_id AND (told <> 'quiet' OR (r.snoozed_until > clock_timestamp()) IS NOT TRUE);
    IF became IS NULL THEN
        RETURN NULL;
    END IF;
    IF told = 'failed' AND became = 'retried' THEN
        told := became;
    END IF;
    INSERT INTO notices (run_id, attempt, kind, rule, url)
    SELECT DISTINCT ON (t.url) r.id, NEW.attempt, told, t.rule, t.url
    FROM runs r JOIN run_specs s ON s.run_id = r.id CROSS JOIN LATERAL (
        SELECT CAST(NULL AS text) AS rule, own.url
        FROM jsonb_array_elements_text(CASE jsonb_typeof(s.notify) WHEN 'array' THEN s.notify END) AS own (url)
        UNION ALL
        SELECT n.name, n.url FROM notice_rules n
        WHERE (n.lane IS NULL OR n.lane = r.lane) AND s.labels @> n.labels
          AND (n.kinds IS NULL OR n.kinds && CASE told WHEN 'reaped' THEN ARRAY[told, became] ELSE ARRAY[told] END)
    ) t
    WHERE r.id = NEW.run_id AND t.url IS NOT NULL
    ORDER BY t.url, t.rule NULLS FIRST;
    RETURN NULL;
END $$
"""

OF_EVENTS = """
CREATE TRIGGER run_events_owe_notices AFTER INSERT ON run_events FOR EACH ROW
WHEN (NEW.kind IN ('succeeded', 'failed', 'cancelled', 'reaped', 'retried', 'quiet')) EXECUTE FUNCTION owe_notices()
"""

OF_SPARINGS = "CREATE TRIGGER sparings_owe_notices AFTER INSERT ON sparings FOR EACH ROW EXECUTE FUNCTION owe_notices()"


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), primary_key=True),
        sa.Column("run_id", sa.Uuid(), sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), sa.Computed(RECEIVER, persisted=True), nullable=False),
        sa.Column("state", sa.Text(), server_default="owed", nullable=False),
        sa.Column("at", TIME, server_default=NOW, nullable=False),
        sa.Column("owed_at", TIME, server_default=NOW, nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("next_try_at", TIME, server_default=NOW, nullable=False),
        sa.Column("settled_at", TIME, nullable=True),
        sa.CheckConstraint(
            "kind IN ('succeeded', 'failed', 'cancelled', 'reaped', 'retried', 'quiet', 'suspected', 'test')",
            name="notices_kind_known",
        ),
        sa.CheckConstraint("state IN ('owed', 'sent', 'undeliverable')", name="notices_state_known"),
        sa.CheckConstraint("(state = 'owed') = (settled_at IS NULL)", name="notices_settled_has_settled_at"),
    )
    op.create_index("notices_owed", "notices", ["receiver", "next_try_at"], postgresql_where=OWED)
    op.create_index("notices_settled", "notices", ["state", "settled_at"], postgresql_where=SETTLED)
    op.create_index("notices_of_run", "notices", ["run_id"])
    op.create_table(
        "notice_rules",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("kinds", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("labels", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("lane", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
    )
    for statement in (OWE_NOTICES, OF_EVENTS, OF_SPARINGS):
        op.execute(statement)
