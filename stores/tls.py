"""What an address says of TLS, for every client of it alike: verified, the host's name too, unless it says otherwise.

Left to themselves the clients differ: redis-py verifies a plain `rediss://`, kombu takes any certificate for the same
address, and py-amqp's default has changed. So these two functions set everything for each.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from reprieve.stores.urls import Url

#: Schemes over TLS: Redis, a Redis that Sentinels name (and those themselves), RabbitMQ.
SCHEMES = ("rediss", "sentinels", "amqps")
#: What such an address may say in its query.
NAMES = ("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

_REQUIREMENTS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server's certificate is verified, and which one we show, if any."""

    verify: ssl.VerifyMode = ssl.CERT_REQUIRED
    check_hostname: bool = True
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @classmethod
    def of(cls, url: Url) -> Self | None:
        """None for an address without TLS. Raises ValueError, naming what would work."""
        asked = {name: value for name, value in url.asked.items() if name in NAMES}
        if url.scheme not in SCHEMES:
            if asked:
                secure = {"amqp": "amqps", "pyamqp": "amqps"}.get(url.scheme, f"{url.scheme}s")
                raise ValueError(f"has {next(iter(asked))} in its query, but no TLS: it would begin with {secure}://")
            return None
        verify = _one_of("ssl_cert_reqs", asked.get("ssl_cert_reqs", "required").lower().removeprefix("cert_"))
        check = asked.get("ssl_check_hostname", "true").lower()
        if check not in _TRUTH:
            raise ValueError("has an ssl_check_hostname that is neither true nor false")
        for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            _refuse_missing(name, asked.get(name))
        return cls(
            verify,
            _TRUTH[check] and verify is not ssl.CERT_NONE,
            asked.get("ssl_ca_certs"),
            asked.get("ssl_certfile"),
            asked.get("ssl_keyfile"),
        )

    @property
    def for_redis(self) -> dict[str, Any]:
        """What a connection of redis-py takes, kombu's too."""
        return {"ssl_cert_reqs": self.verify, "ssl_check_hostname": self.check_hostname, **self._files("ssl_")}

    def for_amqp(self, host: str) -> dict[str, Any]:
        """What py-amqp takes. It checks the host's name only if it is given one."""
        named = {"server_hostname": host} if self.check_hostname else {}
        return {"cert_reqs": self.verify, **named, **self._files("")}

    def _files(self, prefix: str) -> Mapping[str, str]:
        files = {"ca_certs": self.ca_certs, "certfile": self.certfile, "keyfile": self.keyfile}
        return {f"{prefix}{name}": file for name, file in files.items() if file}


def _one_of(name: str, value: str) -> ssl.VerifyMode:
    if value not in _REQUIREMENTS:
        raise ValueError(f"has an {name} that is none of {', '.join(_REQUIREMENTS)}")
    return _REQUIREMENTS[value]


def _refuse_missing(name: str, file: str | None) -> None:
    if file is not None and not Path(file).is_file():
        raise ValueError(f"names a file that is not here by {name}: {file}")


# -- PostgreSQL, whose client has words of its own

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
#: By libpq, these verify the certificate; `verify-full` the host's name too.
VERIFYING = ("verify-ca", "verify-full")


def for_postgres(url: Url) -> dict[str, str]:
    """libpq's TLS options beside those of the URL, which take precedence.

    Of a URL that says nothing, a certificate that the server shows is verified, its host's name too, by the authorities
    of this machine; within this machine nobody can be in between. Raises ValueError for a file that is not there.
    """
    asked = url.asked
    for name in ("sslrootcert", "sslcert", "sslkey"):
        if asked.get(name) != "system":
            _refuse_missing(name, asked.get(name))
    if asked.get("sslmode", MODES[0]) not in MODES:
        raise ValueError(f"has an sslmode that is none of {', '.join(MODES)}")
    given, authority = postgres_mode(url), asked.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    mode = given or ("verify-full" if authority or not is_local_postgres(url) else None)
    options = {"sslmode": mode} if mode and not given else {}
    return options if mode not in VERIFYING or authority else options | {"sslrootcert": _authorities()}


def postgres_mode(url: Url) -> str | None:
    """The `sslmode` that somebody has asked for, in the URL or where libpq looks."""
    return url.asked.get("sslmode") or os.environ.get("PGSSLMODE")


def is_local_postgres(url: Url) -> bool:
    """Whether the database is on this machine, as far as its address says; libpq's environment may name another."""
    elsewhere = "service" in url.asked or (not url.hosts and {"PGHOST", "PGHOSTADDR", "PGSERVICE"} & os.environ.keys())
    return url.is_local and not elsewhere


def may_be_plain(url: Url) -> bool:
    """Whether a PostgreSQL without TLS is accepted: nobody asked for it. Anyone on the way can then read all of it."""
    return not postgres_mode(url) and "sslrootcert" not in url.asked and "PGSSLROOTCERT" not in os.environ


def _authorities() -> str:
    """The user's own for PostgreSQL, where libpq looks; else this machine's, which a bundled libpq cannot find."""
    own = Path("~/.postgresql/root.crt")
    try:
        if own.expanduser().is_file():
            return str(own.expanduser())
    except RuntimeError:  # There is no home.
        pass
    return ssl.get_default_verify_paths().cafile or "system"
