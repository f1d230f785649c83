"""The sign of life of a process of ours, for the health checks of containers: a file, and what is to be read from it.

Who turns a loop touches the file at each turn. Who answers over HTTP writes into it where, and is asked there: a loop
that turns would not show that nobody is answered.
"""

#: Seconds for which a loop may stand still. A worker turns every 2 seconds and beat at least every 20.
STILL = 60

#: What a server listens at to be reached at all of its machine's addresses, and where it is reached from beside it.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not to listen there


def is_turning(age: float) -> bool:
    """Whether a loop turns whose file is that many seconds old, or from the future: then a clock has been set back
    since, and a loop that turns comes round to touch it again.
    """
    return abs(age) <= STILL


def asked_at(host: str, port: int, path: str, *, tls: bool = False) -> str:
    """The URL at which the server of this address is asked from beside it."""
    host = _LOOPBACK.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}{path}"
