"""The settings of this process: those that a command or a test has chosen, or else those of the environment."""

from reprieve.stores.addresses import read_addresses, read_time_scale
from reprieve.workers.settings import Settings, load_settings

_chosen: Settings | None = None


def chosen() -> Settings | None:
    """What somebody has chosen for this process; None where the environment says it all."""
    return _chosen


def choose(settings: Settings | None) -> None:
    global _chosen
    _chosen = settings


def settings() -> Settings:
    """The settings of this process."""
    return _chosen or resolve_settings()


def resolve_settings() -> Settings:
    """The settings, with the embedded servers' addresses where none are set and `reprieve up` runs here.

    A process that uses the database of that `up` uses its time scale too, whatever the environment says.
    """
    found = load_settings()
    missing = {name: url for name, url in read_addresses(found.data_dir).items() if not getattr(found, name)}
    found = load_settings(**missing) if missing else found
    url = found.database_url.get_secret_value() if found.database_url else ""
    scale = read_time_scale(found.data_dir, url)
    return found.model_copy(update={"time_scale": scale}) if scale else found
