"""Whether an address is there to be listened at: asked before anything is started, since a process that finds out later
can only end, and be started again, and again.
"""

import errno
import socket

from reprieve.models.errors import SettingsError
from reprieve.workers.settings import host_and_port


def refuse_taken(setting: str, address: str) -> None:
    """Raises `SettingsError`, with what would do, where nobody can listen at `address`, HOST:PORT, just now."""
    listen(setting, address).close()


def listen(setting: str, address: str) -> socket.socket:
    """A socket that listens at `address`, HOST:PORT. Raises `SettingsError`, with what would do, where none can."""
    host, port = host_and_port(address)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place, family=family)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{setting} is {address}, {_why(error)}") from None


def _why(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return "where another program listens already: end that one, or set another address."
    if number == errno.EACCES:
        return "where this user may not listen: give a port above 1023."
    if number == errno.EADDRNOTAVAIL:
        return "which is no address of this machine: 127.0.0.1 is, and 0.0.0.0 is all of them."
    return "whose host cannot be found from here: give 127.0.0.1, 0.0.0.0, or a name that this machine knows."
