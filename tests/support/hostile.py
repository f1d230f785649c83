"""A folder of somebody else's, whose modules have the names of our rooms and of what we import."""

from pathlib import Path

#: Names that are also ours, and those of libraries that a process of ours imports late.
NAMES = (
    *("adapters", "api", "beat_schedule", "cli", "models", "simulation", "stores", "workers"),
    *("celery", "fastapi", "flower", "kombu", "msgspec", "redis", "sqlalchemy", "uvicorn"),
)


def hostile_folder(inside: Path) -> Path:
    """A folder to start a process in; whoever imports a module of it ends, and says so."""
    folder = inside / "a project of somebody's"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported in place of ours')\n")
    return folder
