"""Run an image without an engine: its layers unpacked once, and a root made of them by this machine's kernel."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from oci_binpkg.archive.merged_root import link_layers
from oci_binpkg.archive.unpacked_layers import UnpackedLayer, UnpackedLayers
from oci_binpkg.cancel import Cancel
from oci_binpkg.disk import disk_errors, read_descriptor
from oci_binpkg.errors import ContentError, EngineError, UsageError
from oci_binpkg.log import Log
from oci_binpkg.model.image import Image
from oci_binpkg.model.manifest import ImageConfig
from oci_binpkg.namespaces.sandbox import (
    TRIAL,
    NotStartedError,
    Sandbox,
    Streams,
    Volume,
    bubblewrap,
    charliecloud,
    found_program,
    run_by,
    run_in_namespace,
)
from oci_binpkg.ops.run_options import RunOptions

_log: Final = Log("run")
WAYS: Final = ("namespace", "bwrap", "ch-run", "chroot")
"""What runs an image without an engine, in the order in which they are tried."""
USUAL_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DENIED: Final = ("namespaces", "ids")
_OF_THE_PROGRAM: Final = ("program", "limits", "directory", "devices")
_MOST_USERS: Final = 1 << 20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ADVICE: Final = (
    "start Docker or Podman, install bubblewrap, or let the administrator allow user namespaces "
    "(user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
)


@dataclass(frozen=True, slots=True)
class Here:
    """What this machine offers: where layers are unpacked, how people stop a run, and who asks (`user` is an id)."""

    unpacked: UnpackedLayers
    cancel: Cancel
    user: int


def run_here(
    image: Image, config: ImageConfig, options: RunOptions, streams: Streams, here: Here, *, name: str, way: str = ""
) -> int:
    """Run an image; return the program's exit code. `name` is the image's in messages, `way` one of `WAYS` or "".

    Raises `EngineError` if no way works here, or the program cannot be started.
    """
    if options.network not in ("", "host", "none"):
        raise UsageError(f"without an engine there is no network {options.network!r}", hint="name none or host")
    with here.unpacked.held(image.layers, name) as layers, here.unpacked.scratch() as scratch:
        attempt = _Attempt(_sandbox(config, options, layers, scratch, name), layers, streams, here)
        tried: list[NotStartedError] = []
        for each in (way,) if way else WAYS:
            try:
                return _START[each](attempt)
            except NotStartedError as error:
                if error.step in _OF_THE_PROGRAM or error.step.startswith("volume"):
                    raise _cannot_start(name, attempt.sandbox, error) from None
                tried.append(NotStartedError(each, f"{error.step}, {error.reason}".removeprefix(f"{each}, ")))
                attempt.denied = attempt.denied or error.step in _DENIED
                _log.info("%s is not run by %s: %s", name, each, error)
    raise EngineError(f"{name}: nothing here runs it ({'; '.join(map(str, tried))})", hint=_ADVICE)


@dataclass(slots=True)
class _Attempt:
    """One image and what it is run with. `denied`: this machine makes no user namespaces."""

    sandbox: Sandbox
    layers: Sequence[UnpackedLayer]
    streams: Streams
    here: Here
    denied: bool = False

    def by_namespace(self) -> int:
        if not all(layer.is_overlay for layer in self.layers):
            self._merge()
        return run_in_namespace(self.sandbox, self.streams, self.here.cancel)

    def by_chroot(self) -> int:
        if self.here.user != 0:
            raise NotStartedError("chroot", "only root may")
        self.sandbox = replace(self.sandbox, user_namespace=False)
        return self.by_namespace()

    def by_bubblewrap(self) -> int:
        return self._by_program("bwrap", bubblewrap)

    def by_charliecloud(self) -> int:
        if not self.sandbox.network:
            raise NotStartedError("ch-run", "it always has the network")
        if self.here.user == 0:  # it shows /proc and /sys as they are, and root inside would be root there
            raise NotStartedError("ch-run", "as root it would let the image change this machine")
        if self.denied:
            raise NotStartedError("ch-run", "it needs user namespaces, too")
        return self._by_program("ch-run", charliecloud)

    def _by_program(self, program: str, command: Callable[[str, Sandbox], list[str]]) -> int:
        path = found_program(program)
        if not path:
            raise NotStartedError(program, "not installed")
        if program == "bwrap" and run_by([path, *TRIAL], None, self.here.cancel) != 0:
            raise NotStartedError(program, "it may make no namespaces here")
        self._merge()
        return run_by(command(path, self.sandbox), self.streams, self.here.cancel)

    def _merge(self) -> None:
        """Make one layer of all, with places for what is mounted; once."""
        sandbox = self.sandbox
        root = os.path.join(sandbox.scratch, "merged")
        if sandbox.layers == (root,):
            return
        with disk_errors(root, "written"):
            os.mkdir(root)
            link_layers([layer.path for layer in self.layers], root)
            for target in (*_MOUNTED, sandbox.directory):
                _make_place(root, target, is_directory=True)
            if not os.path.lexists(f"{root}/etc/resolv.conf"):
                _make_place(root, "/etc/resolv.conf", is_directory=False)
            for volume in sandbox.volumes:
                _make_place(root, volume.target, is_directory=os.path.isdir(volume.source))
            mounts = os.path.join(sandbox.scratch, "mounts")
            os.mkdir(mounts)
        self.sandbox = replace(sandbox, layers=(root,), scratch=mounts)


_MOUNTED: Final = ("/proc", "/dev", "/sys", "/tmp", "/etc")  # noqa: S108 - inside
_START: Final[Mapping[str, Callable[[_Attempt], int]]] = {
    "namespace": _Attempt.by_namespace,
    "bwrap": _Attempt.by_bubblewrap,
    "ch-run": _Attempt.by_charliecloud,
    "chroot": _Attempt.by_chroot,
}


def _make_place(root: str, target: str, *, is_directory: bool) -> None:
    """Make a directory or file below a root, never through a link of the image, which may lead anywhere."""
    parts = [part for part in posixpath.normpath(f"/{target}").split("/") if part]
    within = os.open(root, _DIRECTORY)
    try:
        for depth, part in enumerate(parts, 1):
            last = depth == len(parts)
            try:
                if last and not is_directory:
                    os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644, dir_fd=within))
                    return
                try:
                    inner = os.open(part, _DIRECTORY, dir_fd=within)
                except FileNotFoundError:
                    os.mkdir(part, 0o755, dir_fd=within)
                    inner = os.open(part, _DIRECTORY, dir_fd=within)
            except OSError as error:
                if last and is_directory and error.errno in (errno.ELOOP, errno.ENOTDIR):
                    return  # a link of the image: it is resolved inside
                raise NotStartedError("place", f"{target} leads through a link of the image") from None
            os.close(within)
            within = inner
    finally:
        os.close(within)


def _sandbox(
    config: ImageConfig, options: RunOptions, layers: Sequence[UnpackedLayer], scratch: str, name: str
) -> Sandbox:
    wanted = config.document.get("config") or {}
    if not isinstance(wanted, dict):
        raise ContentError(f"{name}: the configuration's `config` is not an object")
    uid, gid, home = _user(options.user or _text(wanted, "User", name), [layer.path for layer in layers], name)
    if any("\0" in item for item in config.env):
        raise ContentError(f"{name}: a variable in the image's configuration holds a NUL")
    environment = {"PATH": USUAL_PATH, "HOME": home}
    environment |= dict(item.split("=", 1) for item in config.env if "=" in item)
    return Sandbox(
        layers=[layer.path for layer in reversed(layers)],
        scratch=scratch,
        arguments=_arguments(wanted, options, name),
        environment=environment | dict(options.environment),
        # what an image says may hold `..`
        directory=posixpath.normpath("/" + (options.workdir or _text(wanted, "WorkingDir", name)).lstrip("/")),
        uid=uid,
        gid=gid,
        network=options.network != "none",
        volumes=[Volume(*volume) for volume in options.bound()],
        limits=dict(options.limits),
    )


def _arguments(wanted: Mapping[str, Any], options: RunOptions, name: str) -> list[str]:
    """Return program and arguments, as docker puts them together."""
    entrypoint = _texts(wanted, "Entrypoint", name) if options.entrypoint is None else [options.entrypoint]
    default = _texts(wanted, "Cmd", name) if options.entrypoint is None else []
    found = [each for each in entrypoint if each or options.entrypoint is None] + (list(options.command) or default)
    if not found:
        raise UsageError(f"{name} names no program", hint="give a command behind --")
    return found


def _text(wanted: Mapping[str, Any], key: str, name: str) -> str:
    value = wanted.get(key) or ""
    if not isinstance(value, str) or "\0" in value:
        raise ContentError(f"{name}: {key} in the image's configuration is not a text")
    return value


def _texts(wanted: Mapping[str, Any], key: str, name: str) -> list[str]:
    value = wanted.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, str) and "\0" not in each for each in value):
        raise ContentError(f"{name}: {key} in the image's configuration is not a list of texts")
    return list(value)


def _user(text: str, layers: Sequence[str], name: str) -> tuple[int, int, str]:
    """Return uid, gid and home of a user: a number, or a name that the image's own files know."""
    user, _, group = text.partition(":")
    users = [line.split(":") for line in _lines(layers, "passwd")]
    key = 2 if (user or "0").isdigit() else 0
    found = next((line for line in users if len(line) > 5 and line[key] == (user or "0")), None)  # noqa: PLR2004
    if found is None and key == 0:
        raise EngineError(f"{name}: the image has no user {user[:80]!r}", hint="name another one, or a number")
    uid = _number(found[2] if found else user or "0", name)
    home = found[5] if found and found[5].startswith("/") else "/"
    if not group:
        return uid, _number(found[3] if found else "0", name), home
    if group.isdigit():
        return uid, _number(group, name), home
    groups = [line.split(":") for line in _lines(layers, "group")]
    gid = next((line[2] for line in groups if len(line) > 2 and line[0] == group), None)  # noqa: PLR2004
    if gid is None:
        raise EngineError(f"{name}: the image has no group {group[:80]!r}", hint="name another one, or a number")
    return uid, _number(gid, name), home


def _number(text: str, name: str) -> int:
    if not text.isdigit() or int(text[:12]) >= 2**32 - 1:
        raise EngineError(f"{name}: {text[:40]!r} is not the number of a user", hint="name a user by its number")
    return int(text)


def _lines(layers: Sequence[str], leaf: str) -> list[str]:
    """Return the lines of a file in `/etc` of the highest layer that has it; no link is followed."""
    for layer in reversed(layers):
        try:
            folder = os.open(os.path.join(layer, "etc"), _DIRECTORY)
        except OSError:
            continue
        try:
            file = os.open(leaf, _FILE, dir_fd=folder)
        except OSError:
            continue
        finally:
            os.close(folder)
        try:
            return read_descriptor(file, _MOST_USERS, leaf).decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        finally:
            os.close(file)
    return []


def _cannot_start(name: str, sandbox: Sandbox, error: NotStartedError) -> EngineError:
    program = sandbox.arguments[0][:200]
    if error.step == "program" and error.code == errno.ENOENT:
        if any(_has(layer, path) for layer in sandbox.layers for path in _candidates(sandbox)):
            return EngineError(
                f"{name}: {program} is there, and what it needs to start is not: its interpreter, or the loader",
                hint="put the packages on a base image that has a C library",
            )
        return EngineError(f"{name}: has no program {program!r}", hint="name one that is in its PATH, or a path")
    return EngineError(f"{name}: {program} cannot be started: {error.step}: {error.reason}")


def _candidates(sandbox: Sandbox) -> list[str]:
    """Return the paths at which the program is looked for."""
    program = sandbox.arguments[0]
    if "/" in program:
        return [os.path.normpath(os.path.join(sandbox.directory, program))]
    return [f"{folder}/{program}" for folder in sandbox.environment["PATH"].split(":") if folder.startswith("/")]


def _has(layer: str, program: str) -> bool:
    return os.path.lexists(layer + program)
