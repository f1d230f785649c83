"""The API on a socket."""

import threading
import time

import uvicorn

from reprieve.api.app import create_app
from reprieve.api.connections import limited
from reprieve.stores.embedded.address import choose_port
from reprieve.workers.bootstrap import Services
from tests.support.http import LOCAL


class Served:
    """The API on a socket, which can be ended and started again at the same address."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.port = choose_port()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"{LOCAL}:{self.port}"

    def start(self) -> None:
        self.app = create_app(self._services)
        config = uvicorn.Config(self.app, port=self.port, log_config=None, timeout_graceful_shutdown=1, ws="none")
        config.http = limited(1000)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def connections(self) -> set[object]:
        """Those that are open."""
        assert self._server is not None
        return set(self._server.server_state.connections)

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(20)
            assert not self._thread.is_alive()
