"""A proxy as people have one: below a path, with headers that say so, and streams passed on as they come."""

import threading
import time
from collections.abc import AsyncIterator

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from reprieve.stores.embedded.address import choose_port

#: Of one connection only, and not passed on.
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"})


class Proxy:
    """Has what is at `target` below `prefix`, at a port of its own."""

    def __init__(self, target: str, prefix: str) -> None:
        self.port = choose_port()
        self._target, self._prefix = target, prefix
        methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
        app = Starlette(routes=[Route(f"{prefix}/{{path:path}}", self._pass_on, methods=methods)])
        config = uvicorn.Config(app, port=self.port, log_config=None, timeout_graceful_shutdown=1, ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self._prefix}"

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _pass_on(self, request: Request) -> Response:
        told = {name: value for name, value in request.headers.items() if name not in (*HOP_BY_HOP, "host")}
        told |= {
            "X-Forwarded-Host": request.headers["host"],
            "X-Forwarded-Proto": "http",
            "X-Forwarded-For": "127.0.0.1",
            "X-Forwarded-Prefix": self._prefix,
        }
        client = httpx2.AsyncClient(timeout=60, trust_env=False)
        address = f"{self._target}/{request.path_params['path']}"
        asked = client.build_request(
            request.method, address, params=request.query_params, headers=told, content=await request.body()
        )
        answer = await client.send(asked, stream=True)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()
                await client.aclose()

        passed_on = StreamingResponse(body(), answer.status_code)
        passed_on.raw_headers = [
            (name.lower(), value) for name, value in answer.headers.raw if name.decode().lower() not in HOP_BY_HOP
        ]
        return passed_on
