"""One program in a root file system made of layers: what it is given, and the ways in which it is started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from typing import Any, BinaryIO, Final, Self

from oci_binpkg.cancel import Cancel

_CHUNK: Final = 64 * 1024
_MOST_REPORTED: Final = 64 * 1024
_HANDED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_TURN: Final = 0.2
_PATIENCE: Final = 5.0
TRIAL: Final = ("--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "true")
"""What shows that bubblewrap works here: its exit codes do not, they may be the program's."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A file or directory of this machine that is seen inside. Both paths are absolute."""

    source: str
    target: str
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A program and its surroundings. `layers` are directories, the highest first; `scratch` is an empty one.

    `arguments` begins with the program. `uid` and `gid` are those inside; all files are theirs. Without `network` there
    is no other machine. `limits` are as for `ulimit`. Without `user_namespace` the kernel asks for root.
    """

    layers: Sequence[str]
    scratch: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: str = "/"
    uid: int = 0
    gid: int = 0
    network: bool = True
    volumes: Sequence[Volume] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    user_namespace: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return what `start` reads."""
        volumes = [[volume.source, volume.target, volume.readonly] for volume in self.volumes]
        return {**asdict(self), "volumes": volumes}


@dataclass(frozen=True, slots=True)
class Streams:
    """The standard streams of the program: files, or anything that can be written to. Input is this process's own."""

    stdout: BinaryIO
    stderr: BinaryIO


class NotStartedError(Exception):
    """The program was not started: at which step, and why. `code` is the system's error number, 0 if none is known."""

    def __init__(self, step: str, reason: str, code: int = 0) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason
        self.code = code


def run_in_namespace(sandbox: Sandbox, streams: Streams, cancel: Cancel | None = None) -> int:
    """Run the program and return its exit status. Raises `NotStartedError`, and `CancelledError` when it was ended."""
    with as_file(files("oci_binpkg.namespaces").joinpath("start.py")) as program, _Pipe() as spec, _Pipe() as report:
        command = [sys.executable, "-I", "-S", os.fspath(program), str(spec.reader), str(report.writer)]
        with _started(command, streams, (spec.reader, report.writer)) as process:
            spec.close_reader()
            report.close_writer()
            spec.send(json.dumps(sandbox.to_json()).encode("utf-8", "surrogateescape"))
            said = report.receive()
            code = _wait(process, cancel or Cancel())
    if said:
        document = json.loads(said)
        raise NotStartedError(str(document["step"]), str(document["reason"]), int(document["errno"]))
    return code


def run_by(command: Sequence[str], streams: Streams | None, cancel: Cancel | None = None) -> int:
    """Run a program that makes a container by itself, without `streams` silently; return its exit status."""
    with open(os.devnull, "wb") as nothing, _started(command, streams or Streams(nothing, nothing), ()) as process:
        return _wait(process, cancel or Cancel())


def bubblewrap(program: str, sandbox: Sandbox) -> list[str]:
    """Return the command by which bubblewrap runs a sandbox of one layer, which stays as it is."""
    options = [program, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
    options += ["--cap-drop", "ALL"]
    options += ["--uid", str(sandbox.uid), "--gid", str(sandbox.gid), "--ro-bind", sandbox.layers[0], "/"]
    options += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]  # noqa: S108 - inside
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):  # root inside may be root outside, too
        options += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    if sandbox.network:
        options += ["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]
    else:
        options.append("--unshare-net")
    for volume in sandbox.volumes:
        options += ["--ro-bind" if volume.readonly else "--bind", volume.source, volume.target]
    options.append("--clearenv")
    for name, value in sandbox.environment.items():
        options += ["--setenv", name, value]
    return [*options, "--chdir", sandbox.directory, "--", *sandbox.arguments]


def charliecloud(program: str, sandbox: Sandbox) -> list[str]:
    """Return the command by which Charliecloud's `ch-run` runs a sandbox of one layer, which stays as it is."""
    # it does not start where nobody says whose it is
    options = [
        "env",
        "USER=root",
        program,
        f"--uid={sandbox.uid}",
        f"--gid={sandbox.gid}",
        "--private-tmp",
        "--no-passwd",
        "--unset-env=*",
    ]
    options += [f"--set-env={name}={value}" for name, value in sandbox.environment.items()]
    options += [f"--bind={volume.source}:{volume.target}" for volume in sandbox.volumes]
    return [*options, f"--cd={sandbox.directory}", sandbox.layers[0], "--", *sandbox.arguments]


def found_program(name: str) -> str:
    """Return the path of a program, "" if it is not installed."""
    return shutil.which(name) or ""


class _Pipe:
    """A pipe whose ends are closed, whatever happens."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_reader()
        self.close_writer()

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
        self.reader = -1

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
        self.writer = -1

    def send(self, data: bytes) -> None:
        """Write all, and close the end that is written to; a reader that is gone is no error here."""
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(self.writer, data) :]
        self.close_writer()

    def receive(self) -> bytes:
        """Read to the end."""
        data = b""
        while len(data) < _MOST_REPORTED and (chunk := os.read(self.reader, _CHUNK)):
            data += chunk
        return data


@contextmanager
def _started(command: Sequence[str], streams: Streams, inherited: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process with the streams; where one is not a file, a thread hands on what is written."""
    with ExitStack() as stack:
        targets = [_descriptor(stream) for stream in (streams.stdout, streams.stderr)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if targets[0] is None else targets[0],
            stderr=subprocess.PIPE if targets[1] is None else targets[1],
            pass_fds=inherited,
        )
        stack.callback(_end, process)
        for source, target in ((process.stdout, streams.stdout), (process.stderr, streams.stderr)):
            if source is not None:
                stack.callback(_handing_on(source, target))
        yield process


def _descriptor(stream: BinaryIO) -> int | None:
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, AttributeError, ValueError):
        return None


def _handing_on(source: Any, target: BinaryIO) -> Callable[[], None]:
    def hand_on() -> None:
        with source, suppress(OSError, ValueError):
            while chunk := source.read1(_CHUNK):
                target.write(chunk)
                target.flush()

    thread = threading.Thread(target=hand_on, daemon=True)
    thread.start()
    return thread.join


def _wait(process: subprocess.Popen[bytes], cancel: Cancel) -> int:
    with _signals_for(process):
        while True:
            try:
                code = process.wait(_TURN)
            except subprocess.TimeoutExpired:
                cancel.check()
            else:
                return code if code >= 0 else 128 - code


@contextmanager
def _signals_for(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand signals on to the program, whose answer decides; Ctrl-C reaches it from the terminal by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*_HANDED_ON, signal.SIGINT)}
    try:
        for number in _HANDED_ON:
            signal.signal(number, lambda number, _: process.send_signal(number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what still runs: first it is asked to, then the kernel ends it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
