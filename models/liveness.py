"""Every timing that decides whether a run is alive: its name, its unit and its reason. Nowhere else.

The three timings are fixed, not tuning knobs. A live run's row is at most one refresh interval, plus the lag of our
own pipeline that we tolerate, plus a few seconds of shipping old; that sum must stay inside the window, or a healthy
fleet is reaped (Airflow #16573: a threshold set near the heartbeat killed live jobs).

Tests and the demo may run the whole system faster: one *time scale* divides all of the timings together.
"""

from dataclasses import dataclass
from datetime import timedelta

from reprieve.models.errors import TimingRefused

#: A run with no proof of life for this long is suspect, and dead unless something speaks for it.
WINDOW = timedelta(seconds=300)

#: A run's row is refreshed at most this often, however much it prints: an UPDATE per chunk was 107 GB of WAL a day.
REFRESH_INTERVAL = timedelta(seconds=60)

#: How often the reaper looks; also the longest that a dead run may outlive the window.
SWEEP_INTERVAL = timedelta(seconds=60)

#: How often a supervising worker vouches for its work: a third of the refresh interval, so two may be missed.
KEEPALIVE_INTERVAL = timedelta(seconds=20)

#: How old the last sweep may be before we count as having been blind: one missing sweep is a gap. With a longer limit,
#: simulated days have live runs reaped for a database outage that was no gap yet together with the next fault.
BLIND_AFTER = timedelta(seconds=90)

#: How long a sweep's lease lasts unless renewed. It is renewed at each step, the longest of which are a statement (30 s
#: at the most) and the asking (15 s). Shorter than a sweep's interval, so that when a sweep is frozen or cut off, the
#: next sweep takes over, or at the latest the one after.
SWEEP_LEASE = timedelta(seconds=45)

#: How old the last completed sweep may be before health says that dead runs are not found.
SWEEP_OVERDUE = timedelta(seconds=180)

#: The backlog of our own log pipeline that must not cost a live run its life.
TOLERATED_LAG = timedelta(seconds=120)

#: How long a worker's keepalives may fail to reach the database before it vouches for its work through Redis: two of
#: its keepalives.
VOUCH_AFTER = timedelta(seconds=40)

#: How long a platform that cannot say whether work lives spares it, from the first unanswered question on. Doubt does
#: not spare forever (B01).
DOUBT_LIMIT = timedelta(minutes=30)

#: How long a worker may be unseen before others adopt the out-of-process work that it followed: three of its
#: keepalives.
WORKER_GONE_AFTER = timedelta(seconds=60)

#: How long a worker may be cut off from the database before it ends its in-process children itself, since a retry of
#: them may begin elsewhere (`HOST_LOST_AFTER`). Long, since it cannot tell that from a database that is down for all.
CUT_OFF_LIMIT = timedelta(hours=3)

#: How long a host that owes terminations may be unseen before retries stop waiting for it. Twice the limit above: what
#: still ran there, cut off, has ended by then with half of this time to spare (C02).
HOST_LOST_AFTER = timedelta(hours=6)

#: How long an unseen node is remembered.
NODE_FORGOTTEN_AFTER = timedelta(days=30)

#: How long a sweep waits for all platforms' answers; a platform that has not answered by then has said nothing.
ASK_LIMIT = timedelta(seconds=15)

#: No time scale makes a platform answer faster, or a busy machine's worker more punctual, than this.
SHORTEST_ASK_LIMIT = timedelta(seconds=2)
SHORTEST_WORKER_GONE_AFTER = timedelta(seconds=5)
SHORTEST_BLIND_AFTER = timedelta(seconds=6)
SHORTEST_SWEEP_LEASE = timedelta(seconds=4)
SHORTEST_VOUCH_AFTER = timedelta(seconds=2)

#: What shipping a chunk takes on a slow, busy machine. Real time: no time scale makes a machine faster.
SHIPPING_ALLOWANCE = timedelta(seconds=3)

#: The window must hold at least this many refresh intervals.
REFRESHES_PER_WINDOW = 5

#: A queued run that no worker claimed is sent again after this long, then after twice as long, and so on …
RESEND_AFTER = timedelta(seconds=60)

#: … up to this many doublings (64 minutes): a long backlog must not fill the broker with repeated messages.
RESEND_DOUBLINGS = 6


#: Seconds after which a batch that the store does not have is sent again, then after twice as long, and so on …
SHIP_AGAIN_AFTER = 15.0

#: … up to this many doublings (4 minutes): a long backlog must not fill the broker with repeated messages, and what a
#: lost message carried must be there again within the window.
SHIP_AGAIN_DOUBLINGS = 4

#: Seconds between two looks of a worker for runs to adopt, and how many it adopts at each, so that workers share them.
ADOPT_INTERVAL, ADOPT_AT_ONCE = 2.0, 20


@dataclass(frozen=True, slots=True)
class Timing:
    """The timings of one system, all divided by the same time scale.

    Raises `TimingRefused` where the margin between refresh and window would be lost.
    """

    window: timedelta = WINDOW
    refresh_interval: timedelta = REFRESH_INTERVAL
    sweep_interval: timedelta = SWEEP_INTERVAL
    keepalive_interval: timedelta = KEEPALIVE_INTERVAL
    blind_after: timedelta = BLIND_AFTER
    sweep_lease: timedelta = SWEEP_LEASE
    sweep_overdue: timedelta = SWEEP_OVERDUE
    tolerated_lag: timedelta = TOLERATED_LAG
    vouch_after: timedelta = VOUCH_AFTER
    resend_after: timedelta = RESEND_AFTER
    doubt_limit: timedelta = DOUBT_LIMIT
    worker_gone_after: timedelta = WORKER_GONE_AFTER
    ask_limit: timedelta = ASK_LIMIT
    cut_off_limit: timedelta = CUT_OFF_LIMIT
    host_lost_after: timedelta = HOST_LOST_AFTER

    def __post_init__(self) -> None:
        window, refresh = self.window.total_seconds(), self.refresh_interval.total_seconds()
        if window < REFRESHES_PER_WINDOW * refresh:
            raise TimingRefused(
                f"The window ({window:g} s) must be at least {REFRESHES_PER_WINDOW} times the refresh interval "
                f"({refresh:g} s), or one late refresh ends a live run."
            )
        if refresh < 1 or refresh % 1:
            raise TimingRefused(
                f"The refresh interval ({refresh:g} s) must be a whole number of seconds: Redis' EX counts in those."
            )
        if self.host_lost_after < 2 * self.cut_off_limit:
            raise TimingRefused(
                "A host counts as lost before a worker that is cut off has ended its children for sure."
            )
        oldest = self.oldest_live_row.total_seconds()
        if window < oldest:
            raise TimingRefused(
                f"The window ({window:g} s) is shorter than a live run's row may be old ({oldest:g} s: refresh "
                f"interval {refresh:g} s, tolerated lag {self.tolerated_lag.total_seconds():g} s, shipping)."
            )

    @property
    def oldest_live_row(self) -> timedelta:
        """How old `updated_at` of a live run may be while our own pipeline lags as much as tolerated."""
        return self.refresh_interval + self.tolerated_lag + SHIPPING_ALLOWANCE

    @property
    def longest_cut_off(self) -> timedelta:
        """How long a worker may be cut off from database and Redis without its in-process runs counting as lost.

        When that begins, their rows may be a refresh and a keepalive old already.
        """
        return self.window - self.refresh_interval - self.keepalive_interval - SHIPPING_ALLOWANCE

    @property
    def vouch_belief(self) -> timedelta:
        """How long a sweep believes a vouch that it saw in Redis, where one lives for the tolerated lag.

        Together they are a window: what dies after it was vouched for is found within a window and a sweep, and a
        worker that loses Redis too has as much time left as one that loses both at once (`longest_cut_off`).
        """
        return self.window - self.tolerated_lag

    @property
    def longest_pause(self) -> timedelta:
        """How long work may pause if only its output speaks for it and output lags as much as tolerated."""
        return self.window - self.oldest_live_row

    @property
    def refresh_seconds(self) -> int:
        """The life of a throttle key: what `EX` is given."""
        return int(self.refresh_interval.total_seconds())

    @classmethod
    def scaled(cls, scale: int) -> "Timing":
        """All timings divided by `scale`; raises `TimingRefused`, which names the scales that work."""
        if scale < 1:
            raise TimingRefused(f"A time scale of {scale} slows the system down; use 1 or more.")
        try:
            return cls(
                window=WINDOW / scale,
                refresh_interval=REFRESH_INTERVAL / scale,
                sweep_interval=SWEEP_INTERVAL / scale,
                keepalive_interval=KEEPALIVE_INTERVAL / scale,
                blind_after=max(BLIND_AFTER / scale, SHORTEST_BLIND_AFTER),
                sweep_lease=max(SWEEP_LEASE / scale, SHORTEST_SWEEP_LEASE),
                sweep_overdue=SWEEP_OVERDUE / scale,
                tolerated_lag=TOLERATED_LAG / scale,
                vouch_after=max(VOUCH_AFTER / scale, SHORTEST_VOUCH_AFTER),
                resend_after=RESEND_AFTER / scale,
                doubt_limit=DOUBT_LIMIT / scale,
                worker_gone_after=max(WORKER_GONE_AFTER / scale, SHORTEST_WORKER_GONE_AFTER),
                ask_limit=max(ASK_LIMIT / scale, SHORTEST_ASK_LIMIT),
                cut_off_limit=CUT_OFF_LIMIT / scale,
                host_lost_after=HOST_LOST_AFTER / scale,
            )
        except TimingRefused as refused:
            raise TimingRefused(f"Time scale {scale}: {refused} Use a divisor of 60 up to 30.") from None
