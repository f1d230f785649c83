"""Commands about processes: everything on this machine, one role of a deployment, the demo; and the database."""

import os
from typing import Annotated

import typer

from reprieve.cli.extras import need
from reprieve.cli.roles import ROLES, start
from reprieve.cli.sentences import say
from reprieve.models.errors import InvalidRequest, SettingsError
from reprieve.models.lanes import served
from reprieve.models.pulse import asked_at


def up() -> None:
    """Run everything on this machine: PostgreSQL, Redis, workers, beat, Flower and the API. Ctrl-C ends it all."""
    from reprieve.cli.up import run_up

    run_up()


def start_role(
    role: Annotated[str, typer.Argument(metavar="ROLE", help=f"One of {', '.join(ROLES)}.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS…", help="For it, for example --concurrency=200.")
    ] = None,
    lanes: Annotated[
        str | None, typer.Option(help="Of worker-runs: the lanes whose runs it takes, 'gpu,tenant:*'; all by default.")
    ] = None,
) -> None:
    """Start one process of a deployment, as a container or a systemd unit does. `reprieve up` starts all of them."""
    if role not in ROLES:
        raise InvalidRequest(f"There is no role {role!r}; there are {', '.join(ROLES)}.")
    need("prometheus_client", "`reprieve start`")
    if lanes is not None:
        if role != "worker-runs":
            raise InvalidRequest(f"--lanes is for worker-runs; {role} takes no runs.")
        served(lanes)
        os.environ["REPRIEVE_LANES"] = lanes
    from reprieve.workers.current import resolve_settings

    # Here, where what is wrong with a setting is a sentence; of Celery, it would be a traceback.
    settings = resolve_settings()
    if role != "flower":
        settings.require_database_url()
        settings.require_redis_url()
    start(role, more or [])


def api() -> None:
    """Serve the HTTP API at REPRIEVE_API_ADDRESS, on loopback by default. Where there is no token, one is made."""
    from reprieve.cli.serve import serve
    from reprieve.workers.bootstrap import services

    serve(services())


def flower() -> None:
    """Start Flower on loopback behind a password, unless FLOWER_ADDRESS and REPRIEVE_FLOWER_PASSWORD say otherwise."""
    need("flower", "`reprieve flower`")
    from reprieve.cli.stack import flower_port
    from reprieve.workers import pulse
    from reprieve.workers.current import resolve_settings

    settings = resolve_settings()
    secret = settings.flower_password
    if secret is None and not os.environ.get("FLOWER_BASIC_AUTH"):
        raise SettingsError("REPRIEVE_FLOWER_PASSWORD is not set; without a password Flower is open to everyone.")
    if secret is not None:
        os.environ["FLOWER_BASIC_AUTH"] = f"reprieve:{secret.get_secret_value()}"
    os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
    prefix = os.environ.get("FLOWER_URL_PREFIX", "").strip("/")
    path, tls = f"/{prefix}/healthcheck".replace("//", "/"), bool(os.environ.get("FLOWER_CERTFILE"))
    pulse.answers(settings.pulse_file, asked_at(os.environ["FLOWER_ADDRESS"], flower_port(), path, tls=tls))
    # To look at. Its buttons cancel runs (a task's id is its run's), and shut workers down as well.
    os.environ.setdefault("FLOWER_READ_ONLY", "True")
    from reprieve.workers.__main__ import main as celery

    celery(["flower"])


def migrate(
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for a database that is away.")
    ] = 60.0,
) -> None:
    """Bring the database to the form that this version expects, beside a fleet at work; repeat it if interrupted."""
    from reprieve.stores.database import let_interrupt
    from reprieve.stores.migrate import migrate as migrate_database
    from reprieve.workers.bootstrap import services
    from reprieve.workers.waiting import until_fit

    def tell(tries: int, why: str) -> None:
        if tries == 1:
            say(f"The database is not there yet; waiting {wait:g} s for it: {why}", problem=True)

    let_interrupt()
    database = services().database
    try:
        until_fit(database.now, tell, longest=2.0, stop=lambda waited: waited >= wait)
        revision = migrate_database(database, lambda line: say(line, problem=True))
    except KeyboardInterrupt:
        say("the migration was stopped; `reprieve migrate` goes on with it.", problem=True)
        raise typer.Exit(130) from None
    say(f"The database is at revision {revision}.")


def demo(
    real_time: Annotated[bool, typer.Option("--real-time", help="At 300/60/60 seconds: about 8 minutes.")] = False,
) -> None:
    """Show on servers of its own that live runs survive and dead ones are found; exit status 0 if all came out so."""
    from reprieve.cli.demo import run_demo

    raise typer.Exit(run_demo(real_time=real_time))
