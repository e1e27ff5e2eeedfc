"""Servers that send bytes as they are told to, whatever they are asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MOST = 1024 * 1024


@dataclass(frozen=True)
class Behaviour:
    """`first` answers each request; then `endless` is sent again and again, up to 1 MB over all connections."""

    first: bytes
    endless: bytes = b""


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Run a server; gives its `host:port`. A connection stays open until the other side closes it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    left = [MOST]

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while connection.recv(65536):
                connection.sendall(behaviour.first)
                while behaviour.endless and left[0] > 0:
                    left[0] -= len(behaviour.endless)
                    connection.sendall(behaviour.endless)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
