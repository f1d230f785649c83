"""Checks of the fleet: the reaper, the hosts, and the log archive as the workers see it."""

from reprieve.cli.checks import Found
from reprieve.models.health import ailments, refused
from reprieve.models.lanes import unserved
from reprieve.stores.objects import folder_of
from reprieve.workers.bootstrap import Services


def reaper(wired: Services) -> Found:
    reasons = ailments(wired.sweeps.pulse(), wired.timing)
    return (False, " ".join(reasons)) if reasons else (True, "Sweeps are made, and canaries come back.")


def hosts(wired: Services) -> Found:
    reasons = wired.nodes.complaints(wired.timing)
    return (
        (False, " ".join(reasons)) if reasons else (True, "Each name has one holder, and each host that owes is seen.")
    )


def lanes(wired: Services) -> Found:
    """Whether somebody takes what waits."""
    reasons = [unserved(lane) for lane in wired.lanes.unserved(wired.timing.worker_gone_after)]
    return (False, " ".join(reasons)) if reasons else (True, "Each lane in which runs wait is served by a worker.")


def archive(wired: Services) -> Found:
    """Whether the archive takes, gives and removes an object, for this user on this machine."""
    folder = folder_of(wired.settings.archive_url)
    if folder is not None and not folder.exists():
        return True, f"The folder {folder} of the log archive is not there yet: the first log that is closed makes it."
    wired.archives.objects.probe()
    return True, f"An object was written, read, listed and removed in {wired.settings.archive_url}."


def closed_logs(wired: Services) -> Found:
    """Whether the archive of this place can be the one that logs were closed into."""
    folder = folder_of(wired.settings.archive_url)
    if folder is not None and not folder.exists() and wired.archives.any_object():
        return False, (
            f"Logs were closed into an archive, and the folder {folder} is not here: have it be the same folder, or "
            "the same volume, wherever logs are closed and read, or set REPRIEVE_LOG_ARCHIVE_URL to an object store."
        )
    return True, "No closed log lies where this place would not look."


def archiving(wired: Services) -> Found:
    """Whether the workers are refused what they ask of the archive, wherever they are."""
    reasons = refused(wired.archives.refusals())
    return (False, " ".join(reasons)) if reasons else (True, "The workers are refused nothing by the log archive.")


def notices(wired: Services) -> Found:
    """Whether whoever is to be told is: that workers have the secret, only their tries say."""
    if reasons := wired.notices.outbox().complaints:
        return False, " ".join(reasons)
    return True, f"No notice is late ({len(wired.notices.rules())} rules)."


def notice_secret(wired: Services) -> Found:
    """Whether notices could be sent from here."""
    if (rules := len(wired.notices.rules())) and not wired.settings.notice_secrets:
        return False, (
            f"There are {rules} rules of notices, and REPRIEVE_NOTICE_SECRET is not set here: without it no worker of "
            "the queue control sends any. `reprieve notices secret` makes one."
        )
    return True, "Notices would be signed." if wired.settings.notice_secrets else "There is no notice to sign."
