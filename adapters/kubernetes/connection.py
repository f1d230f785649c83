"""How the cluster is reached: what the Kubernetes client reads of a service account or a kubeconfig, for `httpx2`.

The client is imported when it is first needed: Reprieve works without it. Nothing else of it is used: its requests
hold a thread each, its log has no `sinceTime`, and its retries would hold a caller up.
"""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2

from reprieve.adapters.kubernetes.answers import ApiError
from reprieve.models.faults import is_unfit

if TYPE_CHECKING:
    from kubernetes.client import Configuration

T = TypeVar("T")

MISSING_CLIENT = "the Kubernetes client is not installed on this worker; install reprieve[kubernetes]"
#: Seconds that a program which a kubeconfig names for credentials may take.
CREDENTIALS_TIMEOUT = 60.0
#: The kernel asks a silent peer after 30 s, and then each 15 s; one that answers none of 4 is gone. That costs no
#: request.
KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]


class NotConnected(Exception):
    """Raised when there is no client, or nothing says how to reach a cluster; the text says what would work."""


class Connection:
    """To the cluster that the service account or kubeconfig names. Thread-safe; reads it when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_already: tuple[Configuration, ssl.SSLContext] | None = None
        # One thread: what refreshes credentials may run a program, and is not made for two callers at once.
        self._credentials = ThreadPoolExecutor(1, "kubernetes-credentials")

    async def begin(self) -> None:
        """Read how to reach it. Raises `NotConnected`."""
        if self._read_already is None:
            await self._aside(self._read)

    def _read(self) -> None:
        with self._lock:
            if self._read_already is None:
                configuration = _configuration()
                _check_proxy(configuration)
                self._read_already = configuration, _tls_of(configuration)

    @property
    def _begun(self) -> "tuple[Configuration, ssl.SSLContext]":
        if self._read_already is None:
            raise NotConnected("how to reach the cluster was not read yet")
        return self._read_already

    @property
    def url(self) -> str:
        return str(self._begun[0].host).rstrip("/")

    def transport(
        self, *, most: int | None = None, options: list[tuple[int, int, int]] | None = None
    ) -> httpx2.AsyncHTTPTransport:
        """Connections for one event loop: `most` at once, with these socket options beside keepalive.

        No redirect is followed: the token is for the server that was named.
        """
        configuration, tls = self._begun
        return httpx2.AsyncHTTPTransport(
            verify=tls,
            trust_env=False,
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            proxy=_proxy_of(configuration),
            socket_options=[*KEEPALIVE, *(options or [])],
        )

    @property
    def extensions(self) -> dict[str, Any]:
        """Of each request: the name that the server's certificate must have, where it is not that of its address."""
        name = self._begun[0].tls_server_name
        return {"sni_hostname": name} if name else {}

    async def headers(self) -> dict[str, str]:
        """With the credentials as they are now: a token is replaced while we run. Raises `ApiError`, `NotConnected`."""
        await self.begin()
        configuration, _ = self._begun
        if configuration.refresh_api_key_hook is None:
            return _headers(configuration)
        return await self._aside(lambda: _headers(configuration))

    async def _aside(self, call: Callable[[], T]) -> T:
        """Off the loop, since it may run a program."""
        try:
            async with asyncio.timeout(CREDENTIALS_TIMEOUT):
                return await asyncio.get_running_loop().run_in_executor(self._credentials, call)
        except NotConnected:
            raise
        except Exception as error:
            # Whatever that program, or the file that a token is in, has to say.
            raise ApiError(f"there are no credentials ({type(error).__name__}: {error})") from None


def _headers(configuration: "Configuration") -> dict[str, str]:
    token = configuration.auth_settings().get("BearerToken")
    return {"Authorization": token["value"]} if token and token["value"] else {}


def _configuration() -> "Configuration":
    """By the service account of the Pod that we are in; else by the kubeconfig (`KUBECONFIG`, `~/.kube/config`)."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise NotConnected(MISSING_CLIENT) from None
    configuration = client.Configuration()
    try:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration)
    except Exception as error:
        if is_unfit(error):
            raise
        # Whatever is wrong with a kubeconfig, or with the program that it names for credentials.
        raise NotConnected(
            f"nothing says how to reach a cluster ({error}); run the worker with a service account, or set KUBECONFIG"
        ) from None
    return configuration


def _tls_of(configuration: "Configuration") -> ssl.SSLContext:
    """Raises `NotConnected`."""
    try:
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
        if configuration.cert_file:
            tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (OSError, ValueError) as error:
        raise NotConnected(f"the certificates of the cluster, or ours, cannot be read ({error})") from None
    if not configuration.verify_ssl or configuration.assert_hostname is False:
        tls.check_hostname = False
    if not configuration.verify_ssl:
        tls.verify_mode = ssl.CERT_NONE
    return tls


def _check_proxy(configuration: "Configuration") -> None:
    """Raises `NotConnected`."""
    try:
        httpx2.AsyncHTTPTransport(trust_env=False, proxy=_proxy_of(configuration))
    except (ImportError, ValueError) as error:
        raise NotConnected(f"the proxy that the kubeconfig or the environment names is of no use ({error})") from None


def _proxy_of(configuration: "Configuration") -> httpx2.Proxy | None:
    from kubernetes.client.rest import should_bypass_proxies  # With `Configuration`, so it is there.

    if not configuration.proxy or should_bypass_proxies(configuration.host, configuration.no_proxy or ""):
        return None
    return httpx2.Proxy(
        configuration.proxy, headers=configuration.proxy_headers, ssl_context=configuration.proxy_ssl_context
    )
