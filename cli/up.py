"""`reprieve up`: everything on this machine, and where it is to be found."""

import secrets
from pathlib import Path

from reprieve.cli.door import page_address, token_of_up
from reprieve.cli.sentences import say
from reprieve.cli.stack import Stack, wait_for_end
from reprieve.stores.files import write_private
from reprieve.stores.urls import Url
from reprieve.workers.settings import Settings, load_settings


def run_up() -> None:
    """Run everything until Ctrl-C or SIGTERM, and end it."""
    settings = load_settings()
    secret = settings.flower_password
    password = secret.get_secret_value() if secret else secrets.token_urlsafe(12)
    token = token_of_up(settings)  # Before the API starts, which looks for it once.
    with Stack(settings, flower_password=password) as stack:
        # Terminals are recorded, and looked at: what is secret is in a file that its owner alone can read.
        kept = None if secret else settings.data_dir / "flower-password"
        if kept is not None:
            write_private(kept, f"{password}\n")
        _print_addresses(settings, stack, kept, token)
        wait_for_end(stack)
        say("Ending everything …")


def _print_addresses(settings: Settings, stack: Stack, password: Path | None, token: str | None) -> None:
    say(f"PostgreSQL  {Url.parse(stack.database_url or '').shown}")
    say(f"Redis       {Url.parse(stack.redis_url or '').shown}")
    page = page_address(f"{stack.api_address}{settings.api_root_path}", token)
    known = f"the password is in {password}" if password else "the password is REPRIEVE_FLOWER_PASSWORD"
    say(f"Flower      http://127.0.0.1:{stack.flower_port}  user reprieve; {known}")
    say(f"The page    {page}  and the HTTP API, described at /openapi.json")
    say(f"Data        {settings.data_dir}  (logs of the processes in {stack.logs})")
    say("Try it      reprieve run --follow -- echo hello")
    say("Ctrl-C ends everything.")
