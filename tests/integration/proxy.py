"""A proxy that spoils what comes from a server on loopback (benchmarks/servers.py runs real ones)."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["reset", "busy", "slow", "short", "wrong"]


@dataclass
class Proxy:
    """Passes requests on, and spoils the answers that `choose` says."""

    upstream: int
    port: int = 0
    choose: Callable[[str, int], Fault | None] = field(default=lambda path, number: None)
    """Of a path and the number of the request for it, 0-based."""
    counts: dict[str, int] = field(default_factory=dict)
    """Requests by path."""
    spoilt: list[str] = field(default_factory=list)
    """Faults that were made."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, path: str) -> Fault | None:
        with self.lock:
            number = self.counts.get(path, 0)
            self.counts[path] = number + 1
            fault = self.choose(path, number)
            if fault:
                self.spoilt.append(fault)
        return fault


@contextmanager
def run_proxy(upstream: int) -> Iterator[Proxy]:
    """Run a proxy before a server on loopback."""
    proxy = Proxy(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(proxy))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that have had enough
    proxy.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def _make_handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 120

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=20)
            upstream.request(self.command, self.path, headers=dict(self.headers))  # with its Host: S3 signs it
            answer = upstream.getresponse()
            body = answer.read()
            fault = proxy.next_fault(self.path.partition("?")[0]) if self.command == "GET" else None
            if fault == "busy":
                self.send_error(503)
                return
            if fault == "wrong":
                body = bytes(byte ^ 0x55 for byte in body)
            if fault == "short":
                body = body[: len(body) // 2]
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "content-range"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault == "slow":
                self.wfile.write(body[:5])
                self.wfile.flush()
                with suppress(OSError):
                    self.connection.recv(1)  # until the client has had enough of it
                self.close_connection = True
                return
            if fault == "reset":
                self.wfile.write(body[5 : len(body) // 2])
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())  # with linger 0: a reset
                self.close_connection = True
                return
            self.wfile.write(body)

    return Handler
