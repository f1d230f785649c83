"""A port of loopback that speaks TLS and leads to another one, which does not: a process for `tests.support.tls`.

    python -m tests.support.tls_gateway PORT CERTIFICATE KEY PROTOCOL

It says its port in one line, and passes on until it is ended. Of the protocol `postgres`, TLS begins when it is asked.
"""

import asyncio
import socket
import ssl
import sys
from contextlib import closing, suppress

#: What a client of PostgreSQL sends first, to ask for TLS; the answer is yes.
SSL_REQUEST = bytes.fromhex("0000000804d2162f")


async def main(port: int, certificate: str, key: str, protocol: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()

    async def serve(raw: socket.socket) -> None:
        raw.setblocking(False)
        with suppress(OSError, asyncio.IncompleteReadError):
            if protocol == "postgres" and await loop.sock_recv(raw, 8) == SSL_REQUEST:
                await loop.sock_sendall(raw, b"S")
            reader = asyncio.StreamReader()
            streams = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_accepted_socket(lambda: streams, raw, ssl=context)
            near = asyncio.StreamWriter(transport, streams, reader, loop)
            with closing(near):
                far_reader, far = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(pour(reader, far), pour(far_reader, near))

    async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError), closing(target):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()

    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        server.setblocking(False)
        print(server.getsockname()[1], flush=True)
        under_way = set()
        while True:
            task = loop.create_task(serve((await loop.sock_accept(server))[0]))
            under_way.add(task)
            task.add_done_callback(under_way.discard)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:5]))
