"""Runs the calls of a recipe, each in a process of its own that was forked from this one, and has them judged."""

from __future__ import annotations

import concurrent.futures
import glob
import os
import pty
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command_fuzz import judge, worlds
from command_fuzz.sandbox import STORE, Place, lock_machine, snapshot
from command_fuzz.serving import serve
from command_fuzz.values import filled, text_of, to_bytes
from command_fuzz.worlds import Maker, Recipe
from oci_binpkg.cli.app import main

PATIENCE = 20.0
"""Seconds that a call may take before it counts as waiting for ever."""
MOST_OUTPUT = 4 << 20
_MEMORY = "/dev/shm"
_LONGEST_WORD = 100_000
"""Bytes of a word on a command line; the kernel takes little more."""
_LIMITS = {
    resource.RLIMIT_CPU: (12, 14),
    resource.RLIMIT_FSIZE: (3 << 30, 3 << 30),
    resource.RLIMIT_CORE: (0, 0),
    resource.RLIMIT_AS: (8 << 30, 8 << 30),
}


@dataclass(frozen=True)
class Ended:
    """How a call ended: exit code (negative: the signal), what it printed, what it cost in MiB and seconds of CPU."""

    code: int
    out: bytes
    err: bytes
    mib: float
    cpu: float
    seconds: float
    hung: bool = False


@dataclass(frozen=True)
class Signer:
    """Somebody with a key in a GNUPGHOME; `trusted` is a folder with what the command keeps of keys it trusts."""

    home: str
    trusted: str

    def make(self) -> None:
        """Make the key, and `key.asc` of it."""
        self._gpg("--passphrase", "", "--quick-gen-key", "ci@example.org", "ed25519", "sign", "never")
        Path(self.home, "key.asc").write_bytes(self._gpg("--armor", "--export", "ci@example.org"))

    def sign(self, data: bytes, detached: bool) -> bytes:
        """Sign beside the data, or around it."""
        return self._gpg(*(("--armor", "--detach-sign") if detached else ("--clearsign",)), "--output", "-", stdin=data)

    def _gpg(self, *words: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", self.home, "--batch", "--quiet", "--digest-algo", "SHA512", *words]
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


@dataclass
class Bench:
    """A place, its servers, and what runs there. One call at a time."""

    folder: str
    place: Place
    server: int
    locked: bool
    ran: dict[str, int] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)
    signers: list[Signer] = field(default_factory=list)

    def run(self, recipe: Recipe) -> list[judge.Finding]:
        """Make the world of a recipe and run its calls; return what the judge has to say."""
        self.place.clear()
        signed = recipe.get("shape", {}).get("signed")
        sign = self._signer().sign if signed else worlds.unsigned
        world = worlds.make(Maker(recipe, self.place.root, self.place.port, sign))
        if signed:
            shutil.copytree(self._signer().trusted, f"{self.place.root}/data", dirs_exist_ok=True)
        with suppress(OSError, ValueError):  # an edit made a path that cannot be: what is written until then counts
            worlds.written(world, self.place.root)
        if recipe.get("shape", {}).get("store") == "tree":
            self._store()
        found: list[judge.Finding] = []
        for number, call in enumerate(recipe["calls"]):
            for each in recipe.get("files", ()):
                if each.get("before", 0) == number:
                    self._replace(filled(each, self.place.root, self.place.port))
            found += self._judged(call)
        return found

    def _judged(self, call: dict[str, Any]) -> list[judge.Finding]:
        given = filled(call["words"], self.place.root, self.place.port)
        words = [os.fsdecode(to_bytes(text_of(each).replace("\0", ""))[:_LONGEST_WORD]) for each in given]
        before = snapshot(self.place.root)
        ended = self.call(words, call)
        verb = " ".join(words[:2]) if words[0] in ("index", "keys", "mirror") else words[0]
        self.ran[verb] = self.ran.get(verb, 0) + 1
        self.codes[ended.code] = self.codes.get(ended.code, 0) + 1
        return judge.findings(judge.Evidence(self.place, words, call, before, snapshot(self.place.root), ended))

    def call(self, words: list[str], call: dict[str, Any]) -> Ended:
        """Run one call."""
        output = [tempfile.TemporaryFile(dir=self.folder) for _ in range(2)]  # noqa: SIM115 - closed below
        master, slave = pty.openpty() if call.get("terminal") else (-1, -1)
        ready, started = os.pipe()
        fds = [slave if slave >= 0 else each.fileno() for each in output]
        begun = time.monotonic()
        child = os.fork()
        if not child:
            _as_child(words, call, self.place, fds, started)
        for fd in (started, slave):
            if fd >= 0:
                os.close(fd)
        baseline = int(os.read(ready, 64) or b"0")
        os.close(ready)
        shown, hung = _watched(child, master)
        _, status, used = os.wait4(child, 0)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        texts = [shown, b""] if master >= 0 else [_content(each) for each in output]
        for each in output:
            each.close()
        cpu = used.ru_utime + used.ru_stime
        mib = max(0, used.ru_maxrss - baseline) / 1024
        return Ended(os.waitstatus_to_exitcode(status), texts[0], texts[1], mib, cpu, time.monotonic() - begun, hung)

    def _signer(self) -> Signer:
        """Return who signs; his key is made when it is needed, and trusted by the command itself."""
        if not self.signers:
            signer = Signer(f"{self.folder}/gpg", f"{self.folder}/trusted")
            signer.make()
            ended = self.call(["keys", "trust", f"{self.folder}/gpg/key.asc"], {})
            assert ended.code == 0, ended.err
            shutil.copytree(f"{self.place.root}/data", signer.trusted)
            self.signers.append(signer)
        return self.signers[0]

    def _store(self) -> None:
        root = f"{self.place.root}/{STORE}"
        for path, text in (
            (".spack-db/index.json", '{"database":{"version":"8","installs":{}}}'),
            ("linux-x86_64/other/kept", "x"),
        ):
            os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
            Path(f"{root}/{path}").write_text(text, encoding="utf-8")

    def _replace(self, edit: dict[str, Any]) -> None:
        """Put something else in the place of files."""
        whole = os.path.join(self.place.root, edit["path"])
        for path in sorted(glob.glob(whole))[:20] if "*" in whole else [whole]:
            with suppress(OSError, ValueError):
                if edit["as"] == "closed":
                    os.chmod(path, 0)
                    continue
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                elif os.path.lexists(path):
                    os.unlink(path)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                _put(path, edit)


def _put(path: str, edit: dict[str, Any]) -> None:
    kind = edit["as"]
    if kind == "fifo":
        os.mkfifo(path)
    elif kind in ("link", "loop", "dangling"):
        os.symlink({"loop": os.path.basename(path), "dangling": "nowhere"}.get(kind, edit.get("target", ".")), path)
    elif kind == "folder":
        os.makedirs(f"{path}/inner")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    elif kind == "bytes":
        with open(path, "wb") as file:
            file.write(to_bytes(text_of(edit["value"])))


def _as_child(words: list[str], call: dict[str, Any], place: Place, fds: list[int], started: int) -> None:
    """Become the command. Never returns."""
    try:
        os.setsid()
        for limit, values in _LIMITS.items():
            resource.setrlimit(limit, values)
        os.chdir(f"{place.root}/out")
        given, writing = os.pipe()
        os.write(writing, to_bytes(str(call.get("stdin", "")))[:4096])
        os.close(writing)
        for fd, target in zip((given, *fds), range(3), strict=True):
            os.dup2(fd, target)
        environment = {**place.environment(), **filled(call.get("environment", {}), place.root, place.port)}
        os.write(started, b"%d" % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        os.closerange(3, 256)
        if call.get("process"):
            interpreter = [sys.executable, "-m", "oci_binpkg", *words]
            environment["PYTHONPATH"] = os.pathsep.join(each for each in sys.path if each)
            os.execve(sys.executable, list(map(to_bytes, interpreter)), environment)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", encoding="utf-8")  # noqa: SIM115 - until the end
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115 - likewise
        code = 0
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
        os._exit(code)
    except BaseException:  # noqa: BLE001 - what python itself would show
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _watched(child: int, master: int) -> tuple[bytes, bool]:
    """Wait until a child has ended, and read what it shows on its terminal; return that, and whether it had to be killed."""
    watched, deadline, shown = os.pidfd_open(child), time.monotonic() + PATIENCE, b""
    hung, alive = False, True
    reading = [watched, *([master] if master >= 0 else [])]
    while alive:
        ready, _, _ = select.select(reading, [], [], max(0, deadline - time.monotonic()))
        alive = watched not in ready
        if not ready:
            hung, alive = True, False
            os.killpg(child, signal.SIGKILL)
        if master in ready:
            try:
                shown += os.read(master, 65536)
            except OSError:
                reading = [watched]
    os.close(watched)
    if master >= 0:
        shown += _rest(master)
    return shown[:MOST_OUTPUT], hung


def _rest(master: int) -> bytes:
    data = b""
    with suppress(OSError):
        while select.select([master], [], [], 0)[0] and (chunk := os.read(master, 65536)):
            data += chunk
    os.close(master)
    return data


def _content(file: Any) -> bytes:
    file.seek(0)
    data: bytes = file.read(MOST_OUTPUT)
    return data


@contextmanager
def bench() -> Iterator[Bench]:
    """Give a bench in a folder of its own; afterwards its servers have ended and the folder is gone."""
    # in memory where that can be: thousands of small files are made and removed
    folder = tempfile.mkdtemp(prefix="command-fuzz-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None)
    server, port = serve(f"{folder}/place", f"{folder}/engine.sock")
    place = Place(f"{folder}/place", port)
    load_everything()
    os.makedirs(f"{folder}/gpg", mode=0o700)
    try:
        yield Bench(folder, place, server, lock_machine(folder))
    finally:
        subprocess.run(["gpgconf", "--homedir", f"{folder}/gpg", "--kill", "all"], check=False, capture_output=True)
        if os.path.isdir(place.root):
            place.clear()
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)


def load_everything() -> None:
    """Import all that commands import when they run, so that children need not."""
    import importlib
    import pkgutil

    import docker

    import oci_binpkg

    for module in pkgutil.walk_packages(oci_binpkg.__path__, "oci_binpkg."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("yaml", "rich.live", "rich.progress", "tomlkit", "requests", "sqlite3", "concurrent.futures.thread"):
        importlib.import_module(name)
    assert docker is not None
    assert concurrent.futures.ThreadPoolExecutor is not None
