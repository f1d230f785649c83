"""Checks of this machine: settings, room on the disk, open files, adapters, versions."""

import shutil
from importlib.metadata import entry_points, version

from reprieve.adapters.registry import ENTRY_POINT_GROUP, adapter_classes
from reprieve.cli.checks import Found
from reprieve.cli.roles import CONCURRENCY
from reprieve.stores.objects import folder_of
from reprieve.workers.bootstrap import Services
from reprieve.workers.files import files_for
from reprieve.workers.settings import unknown_names

#: Bytes that should be free beside a full spool.
LEAST_FREE = 1024**3


def settings(_: Services) -> Found:
    if unknown := unknown_names():
        return False, f"Nothing reads {', '.join(unknown)}: is it misspelt, or meant for another version?"
    return True, "Every variable with our prefix is a setting."


def space(wired: Services) -> Found:
    settings = wired.settings
    folders = {"the spool": (settings.spool_dir, settings.spool_bytes + LEAST_FREE)}
    if (folder := folder_of(settings.archive_url)) is not None:
        folders["the archive"] = (folder, LEAST_FREE)
    told = []
    for name, (wanted_in, wanted) in folders.items():
        there = next(path for path in (wanted_in, *wanted_in.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < wanted:
            return False, f"{name.capitalize()} has {_gib(free)} left in {there}; {_gib(wanted)} should be free."
        told.append(f"{_gib(free)} for {name}")
    return True, f"There is room: {', '.join(told)}."


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"


def open_files(_: Services) -> Found:
    files = files_for(CONCURRENCY)
    if files.shortage is not None:
        return False, f"Of a worker of runs that is started like this: {files.shortage}"
    return True, f"A process of this user may open {files.raised:,} files, enough for {CONCURRENCY} runs at once."


def plug_ins(_: Services) -> Found:
    broken = {one.name for one in entry_points(group=ENTRY_POINT_GROUP)} - adapter_classes().keys()
    if broken:
        return False, f"Adapters that cannot be used here: {', '.join(sorted(broken))}; a worker's log says why."
    return True, f"Adapters: {', '.join(sorted(adapter_classes()))}."


def versions(_: Services) -> Found:
    return True, ", ".join(f"{name} {version(name)}" for name in ("reprieve", "celery", "kombu", "redis", "sqlalchemy"))
