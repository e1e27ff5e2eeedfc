"""Start one program in a root file system of its own. A program by itself: `python -I -S start.py SPEC_FD REPORT_FD`.

It runs apart from the rest because a process with threads can enter no user namespace. It imports nothing of the
package, and the standard library's small modules only: a container starts as fast as this does.

From `SPEC_FD` it reads one JSON object, see `sandbox.Sandbox`. Nothing is written to `REPORT_FD` if the program was
started, else one JSON object: `step`, `errno`, `reason`. The exit status is the program's, 128 and the signal's number
if one ended it.

Sources: Linux manual pages user_namespaces(7), mount_namespaces(7), pid_namespaces(7), pivot_root(2), mount(2);
Documentation/filesystems/overlayfs.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any, Final, NoReturn

NEWNS: Final = 0x00020000
NEWUTS: Final = 0x04000000
NEWIPC: Final = 0x08000000
NEWUSER: Final = 0x10000000
NEWPID: Final = 0x20000000
NEWNET: Final = 0x40000000

RDONLY: Final = 0x1
NOSUID: Final = 0x2
NODEV: Final = 0x4
NOEXEC: Final = 0x8
REMOUNT: Final = 0x20
BIND: Final = 0x1000
REC: Final = 0x4000
AT_RECURSIVE: Final = 0x8000
AT_FDCWD: Final = -100
MOUNT_SETATTR: Final = 442
PRIVATE: Final = 0x40000
DETACH: Final = 0x2

SET_PDEATHSIG: Final = 1
CAPBSET_DROP: Final = 24
SET_NO_NEW_PRIVS: Final = 38
KEPT_CAPABILITIES: Final = frozenset((0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
"""Those that Docker leaves to a container's root: of files, ids, low ports, chroot, and the like."""
LAST_CAPABILITY: Final = 63

DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS: Final = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
FROM_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
"""A terminal sends these to all of its foreground processes, so that they are not handed on."""
OLD: Final = ".outside"
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
SIOCSIFFLAGS: Final = 0x8914

LIBC: Final = ctypes.CDLL(None, use_errno=True)


class StepError(Exception):
    """A step that the system refused."""

    def __init__(self, step: str, error: OSError | str) -> None:
        super().__init__(step)
        self.step = step
        self.errno = error.errno if isinstance(error, OSError) else 0
        self.reason = (error.strerror or str(error)) if isinstance(error, OSError) else error


def check(result: int) -> None:
    """Raise `OSError` for a call of libc that failed."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount a file system; the parameters are those of the system call."""
    texts = [os.fsencode(text) or None for text in (source, target, kind)]
    check(LIBC.mount(*texts, ctypes.c_ulong(flags), os.fsencode(data) or None))


def main() -> int:
    """Run the program; return its exit status."""
    spec_fd, report_fd = map(int, sys.argv[1:3])
    os.set_inheritable(report_fd, False)
    with open(spec_fd, encoding="utf-8", errors="surrogateescape") as file:
        spec = json.load(file)
    try:
        enter(spec)
        child = os.fork()
        if child == 0:
            die_with_parent()
            return first_process(spec, report_fd)
    except StepError as failure:
        report(report_fd, failure)
        return NOT_FOUND
    os.close(report_fd)
    return follow(child)


def report(descriptor: int, failure: StepError) -> None:
    """Say what went wrong."""
    document = {"step": failure.step, "errno": failure.errno, "reason": failure.reason}
    os.write(descriptor, json.dumps(document).encode())


def enter(spec: dict[str, Any]) -> None:
    """Enter new namespaces; with `user_namespace` as an owner of them, mapped to the ids that are wanted."""
    outer = os.geteuid(), os.getegid()
    flags = NEWNS | NEWPID | NEWIPC | NEWUTS | (0 if spec["network"] else NEWNET)
    try:
        check(LIBC.unshare(flags | (NEWUSER if spec["user_namespace"] else 0)))
    except OSError as error:
        raise StepError("namespaces", error) from None
    if spec["user_namespace"]:
        try:
            write("/proc/self/setgroups", "deny")
            write("/proc/self/uid_map", f"{spec['uid']} {outer[0]} 1")
            write("/proc/self/gid_map", f"{spec['gid']} {outer[1]} 1")
        except OSError as error:
            raise StepError("ids", error) from None
    if not spec["network"]:
        with suppress(OSError):
            bring_up_loopback()
    die_with_parent()


def write(path: str, text: str) -> None:
    """Write to a file of the kernel."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def bring_up_loopback() -> None:
    """Let programs of a new network namespace reach one another."""
    import fcntl  # noqa: PLC0415 - only without a network
    import socket  # noqa: PLC0415
    import struct  # noqa: PLC0415

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", 1))


def die_with_parent() -> None:
    """Let the kernel end this process when the one that started it is gone, however that ended."""
    LIBC.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def first_process(spec: dict[str, Any], report_fd: int) -> int:
    """Prepare the file systems, run the program, and be the process that orphans fall to."""
    try:
        step = "root"
        try:
            make_root(spec)
            step = "devices"
            fill_root(spec)
            step = "volumes"
            bind_volumes(spec)
            check(LIBC.umount2(os.fsencode(f"/{OLD}"), DETACH))
            with suppress(OSError):
                os.rmdir(f"/{OLD}")
            step = "directory"
            os.makedirs(spec["directory"], exist_ok=True)
            os.chdir(spec["directory"])
        except OSError as error:
            raise StepError(step, error) from None
        child = os.fork()
        if child == 0:
            run(spec)
    except StepError as failure:
        report(report_fd, failure)
        sys.exit(NOT_FOUND)
    os.close(report_fd)
    return follow(child)


def make_root(spec: dict[str, Any]) -> None:
    """Mount the layers as one root that can be written to, what is written being kept in memory, and move there."""
    scratch, layers = spec["scratch"], spec["layers"]
    mount("", "/", flags=REC | PRIVATE)
    mount("tmpfs", scratch, "tmpfs", NOSUID | NODEV, "mode=755")
    for name in ("links", "upper", "work", "root"):
        os.mkdir(f"{scratch}/{name}")
    if layers:
        # the names of all layers must fit into a page
        os.chdir(f"{scratch}/links")
        for number, layer in enumerate(layers):
            os.symlink(layer, str(number))
        lower = ":".join(map(str, range(len(layers))))
        mount("overlay", "../root", "overlay", 0, f"lowerdir={lower},upperdir=../upper,workdir=../work,userxattr")
    else:
        mount(f"{scratch}/upper", f"{scratch}/root", flags=BIND)
    os.chdir(f"{scratch}/root")
    os.mkdir(OLD)
    check(LIBC.pivot_root(b".", os.fsencode(OLD)))
    os.chdir("/")


def fill_root(spec: dict[str, Any]) -> None:
    """Mount what programs expect besides their files."""
    for name in ("proc", "dev", "sys", "tmp"):
        os.makedirs(f"/{name}", exist_ok=True)
    try:
        mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC)
    except OSError:  # within a container whose own /proc has covered parts
        mount(f"/{OLD}/proc", "/proc", flags=BIND | REC)
    protect_proc()
    bring_sys()
    mount("tmpfs", "/dev", "tmpfs", NOSUID | NOEXEC, "mode=755")
    for name in DEVICES:
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY))
        mount(f"/{OLD}/dev/{name}", f"/dev/{name}", flags=BIND)
    for name in ("shm", "pts"):
        os.mkdir(f"/dev/{name}")
    mount("tmpfs", "/dev/shm", "tmpfs", NOSUID | NODEV, "mode=1777")  # noqa: S108 - inside
    with suppress(OSError):
        mount("devpts", "/dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    for target, name in DEVICE_LINKS:
        os.symlink(target, f"/dev/{name}")
    with suppress(OSError):
        os.chmod("/tmp", 0o1777)  # noqa: S103, S108 - as everywhere
    if spec["network"]:
        os.makedirs("/etc", exist_ok=True)
        for name in ("resolv.conf", "hosts"):
            with suppress(OSError):
                copy(f"/{OLD}/etc/{name}", f"/etc/{name}")


def protect_proc() -> None:
    """Let nobody inside change the machine: the user that root stands for there may be root outside, too."""
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        if os.path.exists(path := f"/proc/{name}"):
            mount(path, path, flags=BIND | REC)
            mount("", path, flags=BIND | REMOUNT | RDONLY | NOSUID | NODEV | NOEXEC)
    for name in ("kcore", "keys", "timer_list"):
        if os.path.exists(path := f"/proc/{name}"):
            mount(f"/{OLD}/dev/null", path, flags=BIND)


def bring_sys() -> None:
    """Show `/sys` read-only, with all that is mounted in it; leave it out where the kernel cannot do that."""
    with suppress(OSError):
        mount(f"/{OLD}/sys", "/sys", flags=BIND | REC)
        read_only = (ctypes.c_uint64 * 4)(RDONLY, 0, 0, 0)
        arguments = (AT_FDCWD, b"/sys", AT_RECURSIVE, read_only, ctypes.c_size_t(ctypes.sizeof(read_only)))
        if LIBC.syscall(MOUNT_SETATTR, *arguments) != 0:
            check(LIBC.umount2(b"/sys", DETACH))


def copy(source: str, target: str) -> None:
    """Copy a small file, in the place of one or a link that is there."""
    with open(source, "rb") as file:
        data = file.read(1 << 20)
    with suppress(FileNotFoundError):
        os.unlink(target)
    with open(target, "xb") as file:
        file.write(data)


def bind_volumes(spec: dict[str, Any]) -> None:
    """Let directories and files of outside be seen inside. What `target` leads through is the image's own."""
    for source, target, readonly in spec["volumes"]:
        outside = f"/{OLD}{source}"
        try:
            if os.path.isdir(outside):
                os.makedirs(target, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(target) or "/", exist_ok=True)
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
            mount(outside, target, flags=BIND | REC)
            if readonly:
                kept = os.statvfs(target).f_flag & (NOSUID | NODEV | NOEXEC)
                mount("", target, flags=BIND | REMOUNT | RDONLY | kept)
        except OSError as error:
            raise StepError(f"volume {source}", error) from None


def run(spec: dict[str, Any]) -> NoReturn:
    """Become the program; never return."""
    arguments, environment = spec["arguments"], spec["environment"]
    try:
        for name, value in spec["limits"].items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
        for number in range(LAST_CAPABILITY + 1):
            if number not in KEPT_CAPABILITIES:
                LIBC.prctl(CAPBSET_DROP, number, 0, 0, 0)
        if not spec["user_namespace"]:
            os.setgroups([])
            os.setresgid(*[spec["gid"]] * 3)
            os.setresuid(*[spec["uid"]] * 3)
        LIBC.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for number in (*FORWARDED, *FROM_TERMINAL, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
    except (OSError, ValueError, AttributeError) as error:
        fail("limits", error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error)))
    try:
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606 - what the user asked for
    except (OSError, ValueError) as error:
        fail("program", error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error)))


def fail(step: str, error: OSError) -> NoReturn:
    """Say why there is no program, and end."""
    report(int(sys.argv[2]), StepError(step, error))
    sys.exit(NOT_EXECUTABLE if error.errno == errno.EACCES else NOT_FOUND)


def follow(child: int) -> int:
    """Wait for a process, hand signals on to it, and return how it ended; take what other processes leave."""

    def hand_on(number: int, _: Any) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in FORWARDED:
        signal.signal(number, hand_on)
    for number in FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
