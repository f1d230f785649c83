"""What the reaper counts of itself, for Prometheus. The same can be counted in the rows at any time."""

from prometheus_client import Counter, Gauge, Histogram

REAPS = Counter("reprieve_reaps", "Attempts that were reaped.", ["adapter", "code"])
SUSPECTED_FALSE_REAPS = Counter(
    "reprieve_suspected_false_reaps", "Reaped attempts of which output or a result came later.", ["adapter"]
)
SPARED = Counter("reprieve_spared", "Suspects that a sweep spared, once for each sweep.", ["reason"])
REAPED_SILENCE = Histogram(
    "reprieve_reaped_silence_seconds",
    "Seconds from the last sign of life of a reaped attempt to its reap.",
    buckets=(300, 315, 330, 345, 360, 420, 600, 1200, 1800, 3600),
)
BRAKED = Gauge("reprieve_reaper_braked", "Convictions that the last sweep put off, since they were too many at once.")
PIPELINE_LAG = Gauge("reprieve_log_pipeline_lag_seconds", "Age of the newest canary that came back, at the last sweep.")
ADOPTED = Counter("reprieve_adoptions", "Work that this worker took over from another one.", ["adapter"])
HANDED_OVER = Counter("reprieve_handovers", "Work that this worker left to another one.", ["adapter"])
