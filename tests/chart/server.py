"""As much of an API server as Helm asks before it makes a release: which kinds there are, and what is there already."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

Json = dict[str, Any]


@contextmanager
def holding(things: Iterable[Json], kinds: Iterable[tuple[str, str]], folder: Path) -> Iterator[Path]:
    """A kubeconfig, written into this folder, of a cluster with these things; it knows these (apiVersion, kind)."""
    answers = _kinds(set(kinds)) | {_path(thing): thing for thing in things}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            body = json.dumps(answer or {"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"})
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        config = folder / "kubeconfig"
        cluster = {"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "it", "context": {"cluster": "it", "user": "it"}}
        known = {"apiVersion": "v1", "kind": "Config", "current-context": "it", "clusters": [cluster]}
        config.write_text(json.dumps(known | {"contexts": [context], "users": [{"name": "it", "user": {}}]}))
        try:
            yield config
        finally:
            server.shutdown()
            serving.join()


def _kinds(kinds: set[tuple[str, str]]) -> dict[str, Json]:
    """What a client asks first."""
    named = sorted({version for version, _ in kinds if "/" in version})
    versions = [{"groupVersion": version, "version": version.partition("/")[2]} for version in named]
    groups = [
        {"name": one["groupVersion"].partition("/")[0], "versions": [one], "preferredVersion": one} for one in versions
    ]
    answers: dict[str, Json] = {
        "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version in ["v1", *named]:
        resources = [
            {"name": _plural(kind), "namespaced": True, "kind": kind, "verbs": ["get"]}
            for of, kind in sorted(kinds)
            if of == version
        ]
        answers[_root(version)] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    return answers


def _path(thing: Json) -> str:
    metadata = thing["metadata"]
    plural = _plural(thing["kind"])
    return f"{_root(thing['apiVersion'])}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _plural(kind: str) -> str:
    return f"{kind.lower()}s"
