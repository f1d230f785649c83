"""A small S3 for one test, which can refuse, hang and forget: what a real one does on a bad day."""

import re
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

#: How a bucket answers that is not there, and one that does not let in.
MISSING = (404, "NoSuchBucket")
DENIED = (403, "AccessDenied")
METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class ObjectStore:
    """One bucket, `logs`. `refused` and `hanging` say by HTTP method what becomes of requests from now on.

    While it `forgets`, it says of what is written that it is there, and it is not.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.hanging: Set[str] = set()
        self.forgets = False
        self.seen: list[str] = []
        self.waiting = 0
        self.closing = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it as `s3://logs/…`."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.http.server_address[1]}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "us-east-1",
        }

    def refuse(self, *methods: str, how: tuple[int, str] = DENIED) -> None:
        """Answer these methods so from now on."""
        self.refused = dict.fromkeys(methods, how)

    def _handler(self) -> type["_Handler"]:
        return type("Handler", (_Handler,), {"store": self})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: ObjectStore

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = "DELETE" if self.command == "POST" else self.command
        self.store.seen.append(what)
        if what in self.store.hanging:
            self.store.waiting += 1
            self.store.closing.wait()
            self.close_connection = True
        elif what in self.store.refused:
            status, code = self.store.refused[what]
            self.answer(status, f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode())
        else:
            parts = urlsplit(self.path)
            self.act(unquote(parts.path).removeprefix("/logs").strip("/"), parse_qs(parts.query), body)

    do_PUT = do_GET = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - names of http.server's

    def act(self, key: str, query: dict[str, list[str]], body: bytes) -> None:
        objects = self.store.objects
        if "list-type" in query:
            self.answer(200, self.listing(query.get("prefix", [""])[0]))
        elif self.command == "PUT":
            if not self.store.forgets:
                objects[key] = body
            self.answer(200, b"", ETag='"1"')
        elif self.command == "POST":
            for name in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                objects.pop(name, None)
            self.answer(200, b"<DeleteResult><Deleted><Key>any</Key></Deleted></DeleteResult>")
        elif key not in objects:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.give(objects[key])

    def give(self, data: bytes) -> None:
        headers = {"ETag": '"1"', "Last-Modified": "Wed, 25 Nov 2026 12:00:00 GMT"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            self.answer(200, data, **headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        if first >= len(data):
            self.answer(416, b"<Error><Code>InvalidRange</Code></Error>")
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.answer(206, data[first : last + 1], **headers)

    def listing(self, prefix: str) -> bytes:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>1</ETag>"
            "<LastModified>2026-11-25T12:00:00.000Z</LastModified></Contents>"
            for key, data in self.store.objects.items()
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Tests say what they saw themselves."""


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """An empty one, for as long as the block lasts; whoever hangs in it then is let go."""
    store = ObjectStore()
    thread = threading.Thread(target=store.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    store.http.daemon_threads = True
    thread.start()
    try:
        yield store
    finally:
        store.closing.set()
        store.http.shutdown()
        store.http.server_close()
        thread.join()
