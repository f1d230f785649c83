"""The conditions that several statements share, over `r` (runs) and `a` (its attempt `r.attempt`)."""

#: A worker may claim the run now: its time has come, the time by which it was to have begun has not passed, and no
#: earlier attempt's work may still be running.
CLAIMABLE = """
    r.status = 'queued' AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())
    AND (r.start_by IS NULL OR r.attempt > 0 OR r.start_by >= clock_timestamp())
    AND NOT EXISTS (SELECT FROM run_attempts o WHERE o.run_id = r.id AND o.termination = 'owed')"""

#: The run has exceeded its `max_runtime` at `:now` (`models.judging.Suspect.is_overdue`).
OVERDUE = ":now - r.started_at > r.max_runtime"

#: The run's work has a token to report with.
REPORTS = "EXISTS (SELECT FROM run_tokens t WHERE t.run_id = r.id)"

#: The run's work has a token, and has not reported anything: its worker alone spoke for it, which claimed it, and kept
#: it alive while that waited to be recorded (`models.judging.Suspect.has_not_begun`).
NOT_BEGUN = f"(r.last_proof IN ('claim', 'keepalive') AND {REPORTS})"

#: Silent since `:cutoff`, or overdue at `:now`; or late to begin elsewhere, whose silence until then is no suspicion
#: (`models.judging.Suspect.is_late_to_start`).
SUSPICIOUS = f"""(
    {OVERDUE} OR CASE WHEN r.start_by IS NOT NULL AND {NOT_BEGUN}
    THEN r.start_by < :now ELSE r.updated_at < :cutoff END)"""

#: Another worker can follow the attempt: it runs outside its worker, has a handle, and is not up for adoption yet.
ORPHANABLE = """
    a.finished_at IS NULL AND a.handle IS NOT NULL AND a.adoption IS NULL
    AND r.status = 'running' AND r.out_of_process_liveness"""

#: The node `:host`, `:slot` can act on the attempt's work: any node can, or exactly this one (`Handle.is_for`).
FOR_THIS_NODE = "(a.host IS NULL OR a.host = :host AND (a.slot IS NULL OR a.slot = :slot))"

#: The worker `w` is to take nothing new: it, or its host, is drained.
DRAINED = "EXISTS (SELECT FROM drains d WHERE d.name IN (w.node, w.host))"
