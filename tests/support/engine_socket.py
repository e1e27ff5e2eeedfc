"""A stand-in for an engine's socket: it answers what is asked before an image is given to it, and keeps what it is given."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

VERSION = {
    "ApiVersion": "1.41",
    "Version": "4.3.1",
    "Os": "linux",
    "Arch": "amd64",
    "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}],
}


@dataclass
class EngineSocket:
    """What an engine was asked to take: method and path of each request that changes something, and its bytes."""

    address: str
    taken: list[tuple[str, str, bytes]] = field(default_factory=list)


class EngineHandler(BaseHTTPRequestHandler):
    """HTTP on an engine's socket: reads bodies, chunked ones too, and answers."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def address_string(self) -> str:
        return "engine"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Handler(EngineHandler):
    server: _Server

    def do_GET(self) -> None:
        answers = {"/_ping": b"OK", "/version": json.dumps(VERSION).encode(), "/info": b'{"OSType": "linux"}'}
        found = next((answer for path, answer in answers.items() if self.path.endswith(path)), None)
        self._answer(404 if found is None else 200, found or b'{"message": "no such image"}')

    def do_POST(self) -> None:
        self.server.engine.taken.append((self.command, self.path, self._body()))
        self._answer(200, b'{"stream": "Loaded image: localhost/taken:1"}')

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_POST()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    engine: EngineSocket

    def get_request(self) -> Any:
        connection, _ = super().get_request()
        return connection, ("engine", 0)


@contextmanager
def engine_socket(folder: Path) -> Iterator[EngineSocket]:
    """Listen at a socket in a folder, whose path must be short."""
    with _Server(str(folder / "engine.sock"), _Handler) as server:
        server.engine = EngineSocket(f"unix://{folder}/engine.sock")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
        yield server.engine
        server.shutdown()
