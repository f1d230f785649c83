"""What a worker counts of itself, for Prometheus. What the fleet is like is read from the rows (`api/metrics.py`)."""

import logging

from prometheus_client import start_http_server

from reprieve.adapters.metrics import REGISTRY, counter, gauge, histogram
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import host_and_port

logger = logging.getLogger(__name__)

REAPS = counter("reprieve_reaps", "Attempts that were reaped.", ["adapter", "code"])
SUSPECTED_FALSE_REAPS = counter(
    "reprieve_suspected_false_reaps", "Reaped attempts of which output or a result came later.", ["adapter"]
)
SPARED = counter("reprieve_spared", "Suspects that a sweep spared, once for each sweep.", ["reason"])
STALLED = counter("reprieve_stalled", "Attempts that a sweep ended, since they gave no output.", ["adapter"])
REAPED_SILENCE = histogram(
    "reprieve_reaped_silence_seconds",
    "Seconds from the last sign of life of a reaped attempt to its reap.",
    buckets=(300, 315, 330, 345, 360, 420, 600, 1200, 1800, 3600),
)
BRAKED = gauge("reprieve_reaper_braked", "Convictions that the last sweep put off, since they were too many at once.")
PIPELINE_LAG = gauge("reprieve_log_pipeline_lag_seconds", "Age of the newest canary that came back, at the last sweep.")
ADOPTED = counter("reprieve_adoptions", "Work that this worker took over from another one.", ["adapter"])
HANDED_OVER = counter("reprieve_handovers", "Work that this worker left to another one.", ["adapter"])
REFRESHES = counter(
    "reprieve_refreshes",
    "Proofs of life: written, throttled (the run had one within the minute), void (it ended, or has another follower), "
    "failed.",
    ["proof", "result"],
)
VOUCHED = counter(
    "reprieve_vouches", "Proofs of life that this worker gave through Redis, since it could not reach the database."
)
CHUNKS = counter("reprieve_ingested_chunks", "Chunks of output that came: new, or repeated.", ["result"])
BLOCKS_REFUSED = counter("reprieve_refused_blocks", "Blocks of output that could not be stored: in quarantine.")
INGEST_SECONDS = histogram("reprieve_ingest_seconds", "Seconds to store one message of output.")
NOTICES = counter("reprieve_notices", "Notices that this worker tried to send.", ["result"])
SWEEP_SECONDS = histogram("reprieve_sweep_seconds", "Seconds that a sweep took.")
SUSPECTS = gauge("reprieve_suspects", "Runs that the last sweep judged.")


def serve(services: Services) -> None:
    """Answer Prometheus at `REPRIEVE_METRICS_ADDRESS`, if it is set. A port that is taken costs the metrics only."""
    address = services.settings.metrics_address
    if address is None:
        return
    host, port = host_and_port(address)
    try:
        start_http_server(port, host, REGISTRY)
    except OSError as error:
        message = (
            "REPRIEVE_METRICS_ADDRESS is %s, where this worker cannot answer: %s. Give each worker of a host its own."
        )
        logger.error(message, address, error.strerror or error)
