"""The servers that settings name: each by a URL, by its parts, or by a URL that the parts complete."""

import re
from collections.abc import Mapping

from reprieve.stores import postgres_address
from reprieve.stores.urls import Url
from reprieve.workers.environment import PREFIX

#: The servers, each with the scheme of a URL that is made of its host, and how the database in it is called there.
SERVERS = {"database": "postgresql", "redis": "redis", "broker": "amqp"}
PARTS = ("host", "port", "name", "user", "password")
_A_HOST = re.compile(r"[\w.-]+|\[?[0-9a-fA-F:]*:[0-9a-fA-F:.]*\]?")


def completed(server: str, url: str | None, parts: Mapping[str, str | None]) -> str:
    """The URL completed by these parts, or made of them; ValueError for what is given twice, or without a host."""
    setting = f"{PREFIX}{server.upper()}_"
    names = {part: f"{setting}{part.upper()}" for part in PARTS}
    if url is None and not parts["host"]:
        first = next(names[part] for part in PARTS if parts[part])
        raise ValueError(
            f"{first} is set, but neither {setting}URL nor {names['host']}, which would say of which server"
        )
    try:
        read = Url.parse(url) if url else Url(SERVERS[server])
        return str(_with_parts(read, parts))
    except _WrongPart as wrong:
        part, told = wrong.args
        raise ValueError(f"{names[part]}: {told}") from None
    except ValueError as error:
        raise ValueError(f"{setting}URL: {error}") from None


def with_schema(database_url: str, schema: str) -> str:
    """The database's URL with all tables in this schema; ValueError for a URL that names another one."""
    if not postgres_address.can_be_ours(schema):
        return database_url  # Refused by the check of the setting itself.
    try:
        return str(postgres_address.in_schema(Url.parse(database_url), schema))
    except ValueError as error:
        raise ValueError(f"{PREFIX}DATABASE_URL: {error}") from None


class _WrongPart(Exception):
    """Raised when a part is invalid, or is in the URL too; names it, and says what would do."""


def _with_parts(url: Url, parts: Mapping[str, str | None]) -> Url:
    said = {"host": url.hosts, "port": url.hosts[0][1] if url.hosts else None, "name": url.path}
    said |= {"user": url.user, "password": url.password}
    for part in PARTS:
        if parts[part] and said[part]:
            raise _WrongPart(part, "is said by the URL as well; leave one out")
    host = parts["host"]
    if host and not _A_HOST.fullmatch(host) and not (url.scheme == SERVERS["database"] and host.startswith("/")):
        raise _WrongPart("host", "must be the name or the address of one host; its port is a setting of its own")
    if parts["port"] and not (parts["port"].isdecimal() and 0 < int(parts["port"]) < 65536):
        raise _WrongPart("port", "must be a port, from 1 to 65535")
    port = int(parts["port"]) if parts["port"] else None
    hosts = url.hosts or (((host.strip("[]"), port),) if host else ())
    if port and url.hosts:
        hosts = tuple((host, port) for host, _ in url.hosts)
    return Url(
        url.scheme,
        url.user or parts["user"],
        url.password or parts["password"],
        hosts,
        url.path or parts["name"] or "",
        url.query,
    )
