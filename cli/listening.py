"""Whether an address is there to be listened at: asked before anything is started, since a process that finds out later
can only end, and be started again, and again.
"""

import errno
import socket

from models.errors import SettingsError
from workers.settings import host_and_port


def refuse_taken(setting: str, address: str) -> None:
    """Raises `SettingsError`, with what would do, where nobody can listen at `address`, HOST:PORT, just now."""
    host, port = host_and_port(address)
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
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
