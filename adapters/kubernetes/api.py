"""The few requests to the API server that the adapter makes, each with a time limit, and one error for what goes wrong.

The client is imported when it is first used: Reprieve works without it. Answers are plain JSON. The client's own
methods are passed by where they fall short: its log has no `sinceTime`, and its retries would hold a caller up.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Json = dict[str, Any]

#: Seconds that a request may take to connect, and then between two pieces of its answer.
CONNECT_TIMEOUT = 3.05
READ_TIMEOUT = 10.0
#: How many objects are asked for in one answer to a list.
PAGE_SIZE = 500
#: How the admission plugin ResourceQuota says that there is no room now (`resourcequota/controller.go`).
FULL_QUOTA = ("exceeded quota: ", "status unknown for quota: ")
MISSING_CLIENT = "the Kubernetes client is not installed on this worker; install reprieve[kubernetes]"


class NotConnected(Exception):
    """Raised when there is no client, or nothing says how to reach a cluster; the text says what would work."""


@dataclass
class ApiError(Exception):
    """Raised when a request was not answered as it should be: not at all, by an error, or by half an answer."""

    message: str
    status: int | None = None
    """The HTTP status; None when there was none, or not to be relied on."""
    reason: str | None = None
    """The API's own word, from the body; None when what answered was not the API server."""
    name: str | None = None
    """The object that it is about."""
    retry_after: float | None = None

    def __str__(self) -> str:
        said = " ".join(str(part) for part in (self.status, self.reason) if part is not None)
        return f"{said}: {self.message}" if said else self.message

    @property
    def is_refusal(self) -> bool:
        """Whether the API server itself refuses the request, and will again.

        Not so for credentials, that may be on their way, nor for a quota, that others leave room in.
        """
        if self.status is None or not self.reason or self.is_full_quota:
            return False
        return 400 <= self.status < 500 and self.status not in (401, 408, 409, 425, 429)

    @property
    def is_full_quota(self) -> bool:
        """Whether a quota has no room for it now, or is not counted yet; the API has no word of its own for that."""
        return self.status == 403 and any(text in self.message for text in FULL_QUOTA)

    def is_absence_of(self, name: str) -> bool:
        """Whether the API server itself said that the object is not there. A proxy's 404 says nothing."""
        return self.status == 404 and self.reason == "NotFound" and self.name == name


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """From an answer that is an error."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict) or said.get("kind") != "Status":
        said = {"message": body[:200].decode(errors="replace").strip() or "no reason was given"}
    details = said.get("details") or {}
    return ApiError(
        str(said.get("message") or "no reason was given"),
        status,
        said.get("reason"),
        details.get("name"),
        _seconds(headers.get("Retry-After")),
    )


def _seconds(text: str | None) -> float | None:
    """Of `Retry-After`, in the form that API servers use; dates are not."""
    return float(text) if text is not None and text.isdecimal() else None


class LogStream:
    """The log of a Pod as it comes. `shut` may be called from any thread, and ends the reading at once."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def pieces(self) -> Iterator[bytes]:
        """What arrives, until the log ends. Raises `ApiError` when the stream is cut or silent for too long."""
        import urllib3

        try:
            yield from self._response.stream(64 * 1024, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # ValueError: closed by another thread while it was read.
            raise ApiError(f"the log was cut ({type(error).__name__})") from None

    def shut(self) -> None:
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            # It has ended by itself.
            return

    def close(self) -> None:
        self._response.close()


class Api:
    """The API server. Thread-safe; connects when it is first asked."""

    def __init__(self, connect_timeout: float, read_timeout: float) -> None:
        self._timeout = (connect_timeout, read_timeout)
        self._client: ApiClient | None = None
        self._lock = threading.Lock()

    def connect(self) -> "ApiClient":
        """Raises `NotConnected`."""
        with self._lock:
            if self._client is None:
                self._client = _connect()
            return self._client

    def get_one(self, namespace: str, kind: str, name: str) -> Json:
        """The object. Raises `ApiError`, `NotConnected`; so do the others."""
        found = self._json("GET", path_of(namespace, kind, name))
        if not _is_object(found) or found["metadata"]["name"] != name:
            raise ApiError("the answer is not the object that was asked for")
        return found

    def find(self, namespace: str, kind: str, name: str) -> Json | None:
        """The same; None when the API server says that it is not there."""
        try:
            return self.get_one(namespace, kind, name)
        except ApiError as error:
            if error.is_absence_of(name):
                return None
            raise

    def create(self, path: str, body: Json) -> Json:
        """The object as it was created."""
        created = self._json("POST", path, body=body)
        if not _is_object(created) or created["metadata"]["name"] != body["metadata"]["name"]:
            raise ApiError("the answer is not the object that was to be created")
        return created

    def delete(self, path: str, uid: str) -> None:
        """Delete the object, if it still is the one with this uid, and what belongs to it."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        self._json("DELETE", path, body={"apiVersion": "v1", "kind": "DeleteOptions"} | options)

    def list(self, path: str, query: Mapping[str, str]) -> list[Json]:
        """All pages. A list that could not be read to its end is an `ApiError`: what it lacks may still be there."""
        found: list[Json] = []
        token = ""
        while True:
            page = self._json("GET", path, {**query, "limit": str(PAGE_SIZE)} | ({"continue": token} if token else {}))
            items = page.get("items")
            items = [] if items is None else items
            if (
                not str(page.get("kind")).endswith("List")
                or not isinstance(items, list)
                or not all(_is_object(item) for item in items)
            ):
                raise ApiError("the answer is not a list of objects")
            found += items
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def log(self, path: str, query: Mapping[str, str], read_timeout: float) -> LogStream:
        """The caller closes it. `read_timeout`: seconds of silence after which it counts as cut."""
        response = self._request("GET", path, query, None, (self._timeout[0], read_timeout))
        return LogStream(response.response)

    def _json(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Json | None = None) -> Json:
        response = self._request(method, path, query, body, self._timeout)
        import urllib3  # It comes with the client, so it is there by now.

        try:
            answer = json.loads(response.read())
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            response.response.close()
            raise ApiError(f"the answer was cut or is no JSON ({type(error).__name__})") from None
        if not isinstance(answer, dict):
            raise ApiError("the answer is not an object")
        return answer

    def _request(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Json | None, timeout: tuple[float, float]
    ) -> Any:
        """An answer whose status says success, with its body unread."""
        client = self.connect()
        import urllib3
        from kubernetes.client.exceptions import ApiException

        url = path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json, */*", "Content-Type": "application/json"}
        try:
            request = client.param_serialize(
                method, url, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            response: Any = client.call_api(*request, _request_timeout=timeout)
            if 200 <= response.status <= 299:
                return response
            said = response.read()
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise ApiError(f"no answer ({type(error).__name__})") from None
        raise error_of(response.status, response.response.headers, said or b"")


def _is_object(thing: Any) -> bool:
    """Whether it is what an API server calls so: then its name and uid are there, and say which it is."""
    metadata = thing.get("metadata") if isinstance(thing, dict) else None
    return isinstance(metadata, dict) and {"name", "uid"} <= metadata.keys()


def path_of(namespace: str, kind: str, name: str | None = None, part: str = "") -> str:
    """The path of `jobs`, `pods` or `events`, of one of them, or of a part of it such as its log."""
    group = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
    one = f"/{quote(name, safe='')}" if name is not None else ""
    return f"{group}/namespaces/{quote(namespace, safe='')}/{kind}{one}{part}"


def _connect() -> "ApiClient":
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
        # Whatever is wrong with a kubeconfig, or with the program that it names for credentials.
        raise NotConnected(
            f"nothing says how to reach a cluster ({error}); run the worker with a service account, or set KUBECONFIG"
        ) from None
    # A retry here would be invisible to the waiting caller: `Retry-After` may be minutes.
    configuration.retries = False
    return client.ApiClient(configuration)
