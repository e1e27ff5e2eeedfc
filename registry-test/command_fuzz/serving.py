"""The servers of a sandbox: a registry over the layout, a web server over the mirror, an engine. A process of its own.

`served/answers.json` of the place may hold rules, the first that fits answers instead: `match` (part of the path),
`status`, `headers` (pairs), `body`, `drip` (an answer whose head never ends), `times` (only the first ones).
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import sys
import threading
import time
from typing import Any

from command_fuzz.values import text_of, to_bytes

MOST_READ = 64 << 20
_DRIPS = 400


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for the place that the server is about."""

    protocol_version = "HTTP/1.1"
    server: Servers

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def address_string(self) -> str:
        return "local"

    def do_GET(self) -> None:
        data = self._body()
        path = self.path.partition("?")[0]
        rule = self._rule()
        if rule is not None:
            self._by_rule(rule)
        elif path.startswith("/v2"):
            self._registry(path, data)
        elif path.startswith("/cache/"):
            self._file(path.lstrip("/"))
        else:
            self._engine(path, data)

    do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the base class's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MOST_READ))

    def _rule(self) -> dict[str, Any] | None:
        try:
            with open(f"{self.server.root}/served/answers.json", "rb") as file:
                rules = json.load(file)
        except (OSError, ValueError, RecursionError):
            return None
        for number, rule in enumerate(rules if isinstance(rules, list) else ()):
            # an engine is trusted to answer in time
            if isinstance(rule, dict) and isinstance(self.server, Engines) and "drip" in rule:
                continue
            if isinstance(rule, dict) and str(rule.get("match", "?")) in self.path:
                asked = self.server.asked[number] = self.server.asked.get(number, 0) + 1
                if asked <= int(rule.get("times", 10**6)):
                    return rule
        return None

    def _by_rule(self, rule: dict[str, Any]) -> None:
        status = rule.get("status", 200)
        head = b"HTTP/1.1 %d x\r\n" % (status if isinstance(status, int) and 0 <= status < 10**6 else 200)
        body = to_bytes(text_of(rule.get("body", "")))
        headers = [each for each in rule.get("headers", ()) if isinstance(each, list) and len(each) == 2]
        head += b"".join(to_bytes(f"{key}: {text_of(value)}\r\n") for key, value in headers)
        if not any(str(key).lower() in ("content-length", "transfer-encoding") for key, _ in headers):
            head += b"Content-Length: %d\r\n" % len(body)
        self.close_connection = True
        if rule.get("drip"):
            for _ in range(_DRIPS):
                self.wfile.write(head[:1] if rule["drip"] == "head" else b"HTTP/1.1 100 Continue\r\n\r\n")
                head = head[1:] or b"x"
                time.sleep(0.05)
        self.wfile.write(head + b"\r\n" + (body if self.command != "HEAD" else b""))

    def _registry(self, path: str, data: bytes) -> None:
        pushed, (name, reference) = self.server.pushed, path.rpartition("/")[::2]
        if self.command in ("POST", "PATCH") and "/blobs/uploads" in path:
            pushed["part"] = b"" if self.command == "POST" else pushed.get("part", b"") + data
            self._say(202, headers=[("Location", "/v2/apps/blobs/uploads/1"), ("Range", "0-0")])
        elif self.command == "PUT":
            digest = self.path.partition("digest=")[2].replace("%3A", ":")
            pushed[digest or reference] = data or pushed.get("part", b"")
            self._say(201, headers=[("Location", path)])
        elif path.rstrip("/") == "/v2":
            self._say(200, b"{}")
        elif path.endswith("/tags/list"):
            self._say(200, json.dumps({"name": "apps", "tags": sorted(self._tags())}).encode())
        else:
            found = pushed.get(reference)
            if found is None:
                found = self._content(
                    self._tags().get(reference, reference) if name.endswith("/manifests") else reference
                )
            self._say_content(found, reference, name)

    def _say_content(self, data: bytes | None, reference: str, name: str) -> None:
        if data is None:
            self._say(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}')
            return
        try:
            media_type = (
                str(json.loads(data)["mediaType"]) if name.endswith("/manifests") else "application/octet-stream"
            )
        except (ValueError, TypeError, LookupError, RecursionError):
            media_type = "application/vnd.oci.image.manifest.v1+json"
        digest = [("Docker-Content-Digest", reference)] if reference.startswith("sha256:") else []
        plain = media_type if media_type.isascii() and media_type.isprintable() else "text/plain"
        self._say(200, data, [("Content-Type", plain[:500]), *digest])

    def _tags(self) -> dict[str, str]:
        try:
            with open(f"{self.server.root}/cache/index.json", "rb") as file:
                entries = json.load(file)["manifests"]
            name = "org.opencontainers.image.ref.name"
            return {str(each["annotations"][name]): str(each["digest"]) for each in entries}
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return {}

    def _content(self, digest: str) -> bytes | None:
        try:
            with open(f"{self.server.root}/cache/blobs/{digest.replace(':', '/')}", "rb") as file:
                return file.read()
        except (OSError, ValueError):
            return None

    def _file(self, path: str) -> None:
        try:
            with open(os.path.join(self.server.root, path), "rb", opener=_at_once) as file:
                data = file.read()
        except (OSError, ValueError):
            self._say(404)
            return
        self._say(200, data, [("ETag", f'"{len(data)}"')])

    def _engine(self, path: str, data: bytes) -> None:
        loaded = re.search(rb'"Config": ?"(?:blobs/sha256/)?([0-9a-f]{64})', data)
        if loaded:
            self.server.loaded = loaded[1].decode()
        answers = {
            "/_ping": b"OK",
            "/version": b'{"ApiVersion":"1.41","Version":"4.3.1","Os":"linux","Arch":"amd64","Components":[]}',
            "/info": b'{"OSType":"linux","Architecture":"x86_64"}',
            "/json": b'{"Id":"sha256:%s"}' % self.server.loaded.encode(),
            "/images/load": b'{"stream":"Loaded image: localhost/cache:both"}',
        }
        found = next((answers[key] for key in answers if path.endswith(key)), None)
        self._say(404 if found is None else 200, found or b'{"message":"no such image"}')

    def _say(self, status: int, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> None:
        self.send_response(status)
        for key, value in headers or [("Content-Type", "application/json")]:
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


class Servers(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The server at a port; `root` is the place of the cases."""

    daemon_threads = True

    def __init__(self, root: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.pushed: dict[str, bytes] = {}
        self.asked: dict[int, int] = {}
        self.loaded = ""
        self._place = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        place = os.stat(self.root).st_ino if os.path.isdir(self.root) else 0
        if place != self._place:
            self.pushed, self.asked, self._place = {}, {}, place
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)


class Engines(Servers):
    """The same at a socket file."""

    address_family = socket.AF_UNIX

    def __init__(self, root: str, path: str) -> None:
        socketserver.TCPServer.__init__(self, path, Handler)  # type: ignore[arg-type]
        self.root, self.pushed, self.asked, self.loaded, self._place = root, {}, {}, "", 0

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        return self.socket.accept()[0], ("local", 0)


def serve(root: str, engine: str) -> tuple[int, int]:
    """Start the servers in a process of their own; return its id and the port.

    When it is ended by SIGTERM it removes the folder of the place: for those who locked the machine it is a mount.
    """
    servers, engines = Servers(root), Engines(root, engine)
    port = int(servers.server_address[1])
    process = os.fork()
    if process:
        servers.server_close()
        engines.server_close()
        return process, port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    threading.Thread(target=engines.serve_forever, daemon=True).start()
    try:
        servers.serve_forever()
    finally:
        shutil.rmtree(os.path.dirname(root), ignore_errors=True)
        os._exit(0)
