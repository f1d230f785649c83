"""The way in that `reprieve up` shows: the page's address, with the token of the data folder."""

from reprieve.stores.tokens import make_own_token
from reprieve.workers.settings import Settings


def token_of_up(settings: Settings) -> str | None:
    """The data folder's own token, made if there is none; None where the API is to be open. Raises `SettingsError`."""
    return None if settings.api_open else make_own_token(settings.data_dir)


def page_address(address: str, token: str | None) -> str:
    """The address of the page, with a token that the browser keeps as a cookie and takes out of the address."""
    return f"http://{address}" + (f"/?token={token}" if token else "")
