"""nginx as a real web server on loopback over a directory, with its access log."""

from __future__ import annotations

import contextlib
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.real.components import command_path
from tests.support.real.process import Daemon, StartError, clean_environment

_ATTEMPTS = 5
_CONFIG = """\
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
  log_format plain '$request_method $uri $status $body_bytes_sent';
  access_log {directory}/access.log plain;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


class WebServer:
    """A running nginx over the directory `root`. `url` has no slash at its end."""

    def __init__(self, directory: Path, root: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self._log = directory / "access.log"
        for attempt in range(_ATTEMPTS):
            port = _free_port()
            self.url = f"http://127.0.0.1:{port}"
            config = directory / "nginx.conf"
            config.write_text(_CONFIG.format(directory=directory, root=root, port=port))
            argv = [command_path("nginx"), "-p", str(directory), "-e", "stderr", "-c", str(config)]
            self._daemon = Daemon(argv, log=directory / "nginx.log", env=clean_environment(directory))
            try:
                self._daemon.wait_until(self._answers, seconds=10)
            except StartError:
                # nginx does not choose ports itself, so another process may have been faster
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _answers(self) -> bool | None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(f"{self.url}/is-it-up", timeout=5).close()
        except urllib.error.HTTPError as refused:
            refused.close()
        except OSError:
            return None
        return True

    def requests(self) -> list[tuple[str, str, int, int]]:
        """Method, path, status and bytes of the answer's body of all requests so far, the harness's own left out."""
        with contextlib.suppress(urllib.error.HTTPError):
            marker = f"/marker-{time.monotonic_ns()}"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(self.url + marker, timeout=5).close()
        deadline = time.monotonic() + 10
        while marker not in self._log.read_text():
            if time.monotonic() > deadline:
                message = "nginx does not write its access log"
                raise TimeoutError(message)
            time.sleep(0.01)
        lines = re.findall(r"^(\S+) (\S+) (\d+) (\d+)$", self._log.read_text(), re.MULTILINE)
        return [(m, p, int(s), int(b)) for m, p, s, b in lines if not p.startswith(("/marker-", "/is-it-up"))]

    def stop(self) -> None:
        self._daemon.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def web_server(directory: Path, root: Path) -> Iterator[WebServer]:
    """A web server for the length of a `with` block."""
    server = WebServer(directory, root)
    try:
        yield server
    finally:
        server.stop()
