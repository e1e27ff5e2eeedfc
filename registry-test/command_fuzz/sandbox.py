"""The sandbox: a place with homes of its own and canaries around it, looked at before and after each command.

Where the kernel lets it, all the rest of the machine is read-only for the commands (a mount namespace), so that an
escape does no harm. Nobody relies on that: what the judge looks at is the place.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import struct
from dataclasses import dataclass

from command_fuzz.worlds import SECRET

STORE = "deep/er/store"
FOLDERS = ("home", "config", "cachehome", "data", "state", "run", "tmp", "layers", "out", "docker", "deep/er", "served")
CANARIES = ("victim", "deep/victim", "deep/er/victim", "home/victim", "deep/er/store/victim", "out/../victim/inner")
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MOUNT_SETATTR = 442
_RECURSIVE, _READ_ONLY, _BIND, _PRIVATE, _REC = 0x8000, 1, 4096, 1 << 18, 16384
_HERE = -100

Entry = tuple[object, ...]


@dataclass(frozen=True)
class Place:
    """The root of one case; `port` is where its server listens."""

    root: str
    port: int

    def environment(self) -> dict[str, str]:
        """Return all variables that a command gets."""
        root = self.root
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": f"{root}/home",
            "XDG_CONFIG_HOME": f"{root}/config",
            "XDG_CACHE_HOME": f"{root}/cachehome",
            "XDG_DATA_HOME": f"{root}/data",
            "XDG_STATE_HOME": f"{root}/state",
            "XDG_RUNTIME_DIR": f"{root}/run",
            "TMPDIR": f"{root}/tmp",
            "DOCKER_CONFIG": f"{root}/docker",
            "DOCKER_HOST": f"unix://{root}/../engine.sock",
            "CONTAINER_HOST": f"unix://{root}/../engine.sock",
            "SPACK_ENV": f"{root}/env",
            "SPACK_SYSTEM_CONFIG_PATH": f"{root}/home/no-system",
            "OCI_BINPKG_LAYER_CACHE": f"{root}/layers",
            "OCI_BINPKG_RETRIES": "0",
            "OCI_BINPKG_TIMEOUT": "2",
            "LAB_TOKEN": SECRET,
            "GNUPGHOME": f"{root}/../gpg",
            "COLUMNS": "120",
            "TERM": "xterm",
        }

    def clear(self) -> None:
        """Make the place as it is before a world is put into it."""
        if os.path.lexists(self.root):
            _open_up(self.root)
            shutil.rmtree(self.root)
        for folder in FOLDERS:
            os.makedirs(os.path.join(self.root, folder), mode=0o700)
        for canary in CANARIES:
            path = os.path.normpath(os.path.join(self.root, canary))
            os.makedirs(path, exist_ok=True)
            with open(f"{path}/kept", "w", encoding="utf-8") as file:
                file.write("what is precious\n")
        os.symlink("victim", f"{self.root}/link-to-victim")
        os.symlink("loop", f"{self.root}/loop")
        os.mkfifo(f"{self.root}/fifo")


def _open_up(root: str) -> None:
    """Make folders writable again that a case closed."""
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o700)


def snapshot(root: str) -> dict[str, Entry]:
    """Return type, mode, size, time and link of everything below a path; of canaries the content, too."""
    found: dict[str, Entry] = {}
    stack = [root]
    while stack:
        folder = stack.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            facts = entry.stat(follow_symlinks=False)
            name = os.path.relpath(entry.path, root)
            if stat.S_ISDIR(facts.st_mode):
                found[name] = ("dir", facts.st_mode, facts.st_ino)
                stack.append(entry.path)
                continue
            target = os.readlink(entry.path) if stat.S_ISLNK(facts.st_mode) else ""
            content = _digest(entry.path) if entry.name == "kept" else ""
            found[name] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ino, target, content)
    return found


def changes(before: dict[str, Entry], after: dict[str, Entry]) -> list[str]:
    """Return what is new, gone or different."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def lock_machine(writable: str) -> bool:
    """Make everything but one folder read-only for this process and its children; return whether that was possible."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLONE_NEWNS | (_CLONE_NEWUSER if os.geteuid() else 0)
    path = os.fsencode(writable)
    if libc.unshare(flags) or libc.mount(None, b"/", None, _PRIVATE | _REC, None):
        return False
    if libc.mount(path, path, None, _BIND, None):
        return False
    read_only = struct.pack("4Q", _READ_ONLY, 0, 0, 0)
    if libc.syscall(_MOUNT_SETATTR, _HERE, b"/", _RECURSIVE, read_only, 32):
        return False
    return not libc.syscall(_MOUNT_SETATTR, _HERE, path, _RECURSIVE, struct.pack("4Q", 0, _READ_ONLY, 0, 0), 32)
