"""A stand-in for a container engine that takes an image, and runs it by saying what it was asked to run."""

from __future__ import annotations

import io
import json
import re
import socketserver
import struct
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.engine_socket import VERSION, EngineHandler

ANSWERS = {
    "/_ping": b"OK",
    "/version": json.dumps(VERSION).encode(),
    "/info": b'{"OSType": "linux"}',
    "/networks": b'[{"Name": "bridge"}]',
    "/containers/1/json": b'{"Id": "1", "Config": {"Tty": false}}',
}
PREFIX = b"/opt/spack/opt/linux-x86_64/greet-2.0-6fytamqgzio2shuhlaie55hiv2m2stdw"
GREETING = b"from " + PREFIX + b"\nhello, world (lib 1.2.0)\n"
"""What `greet` of the golden tree prints, as `registry-test/test_documented_images.py` shows with real engines."""


class _Handler(EngineHandler):
    server: _Server

    def do_GET(self) -> None:
        path = re.sub(r"^/v[0-9.]+|\?.*", "", self.path)
        if path.startswith("/images/") and self.server.image_id:
            self._answer(200, json.dumps({"Id": self.server.image_id}).encode())
        elif path in ANSWERS:
            self._answer(200, ANSWERS[path])
        else:
            self._answer(404, b'{"message": "no such image"}')

    def do_POST(self) -> None:
        path = re.sub(r"^/v[0-9.]+|\?.*", "", self.path)
        body = self._body()
        if path == "/images/load":
            self.server.image_id = _configuration(body)
            self._answer(200, b'{"stream": "Loaded image"}')
        elif path == "/containers/create":
            self._answer(201, b'{"Id": "1"}')
        elif path.endswith("/attach"):
            self._attach()
        elif path.endswith("/start"):
            self.server.started.set()
            self._answer(204, b"")
        elif path.endswith("/wait"):
            self._answer(200, b'{"StatusCode": 0}')
        else:
            self._answer(204, b"")

    def do_DELETE(self) -> None:
        self._answer(204, b"")

    def _attach(self) -> None:
        frame = struct.pack(">BxxxL", 1, len(GREETING)) + GREETING
        self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        # what comes with the head of the answer would stay in the client's buffer
        self.server.started.wait(timeout=60)
        self.wfile.write(frame)
        self.close_connection = True


def _configuration(archive: bytes) -> str:
    """Return the id that an engine gives the image in an archive: the digest of its configuration."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        manifest = members.extractfile("manifest.json")
        assert manifest is not None
        return "sha256:" + Path(json.load(manifest)[0]["Config"]).name.removesuffix(".json")


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    image_id = ""

    def __init__(self, address: str) -> None:
        self.started = threading.Event()
        super().__init__(address, _Handler)

    def get_request(self) -> Any:
        connection, _ = super().get_request()
        return connection, ("engine", 0)


@contextmanager
def greeting_engine(folder: Path) -> Iterator[str]:
    """Listen at a socket in a folder, and give its address."""
    with _Server(str(folder / "engine.sock")) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
        yield f"unix://{folder}/engine.sock"
        server.shutdown()
