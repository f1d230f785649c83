"""The database's clock is set back: a standby took over whose clock is behind, or somebody has put it right."""

from datetime import timedelta

from sqlalchemy import text

from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.support.rows import age, in_process, running, status_of, watch_for

AN_HOUR = timedelta(hours=1)


def set_back(services: Services) -> None:
    """What was written before is of an hour that is still to come."""
    with services.database.begin() as connection:
        for statement in (
            "UPDATE reaper_watch SET watching_since = watching_since + :by, last_sweep_at = last_sweep_at + :by, "
            "hearing_since = hearing_since + :by, heard_at = heard_at + :by",
            "UPDATE leases SET since = since + :by, until = until + :by",
        ):
            connection.execute(text(statement), {"by": AN_HOUR})


def test_sweeps_go_on_with_a_new_watch_though_the_last_one_is_still_to_come(services: Services) -> None:
    watch_for(services, 7200)
    with services.sweeps.single_flight():  # A sweep that was killed.
        set_back(services)
        dead = in_process(services)
        age(services, dead.run_id, 600)
        assert sweep(services)["judgements"] == {"spare_warming_up": 1}
    watch = services.sweeps.last_watch()
    assert watch is not None
    assert watch.age(services.database.now()) < timedelta(minutes=1)
    watch_for(services, 301)
    assert sweep(services)["reaped"] == 1


def test_a_canary_from_before_is_no_sign_that_output_comes_through_and_one_from_now_is(services: Services) -> None:
    silent = running(services)
    age(services, silent.run_id, 600)
    watch_for(services, 7200)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE reaper_watch SET heard_at = heard_at + :by"), {"by": AN_HOUR})
    assert sweep(services)["judgements"] == {"spare_lagging": 1}
    assert status_of(services, silent.run_id) == "running"
    sent_at = services.database.now()
    services.sweeps.hear(sent_at)
    assert services.sweeps.heard_at() == sent_at
