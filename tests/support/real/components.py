"""The real programs that the tests can be run against, and what to do where one is missing.

Only the standard library is imported, so that `registry-test/tools/install_parts.py` runs before any environment exists.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# The distribution's own programs come first: another client of the same name may stand earlier on PATH.
SYSTEM_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"


@dataclass(frozen=True, slots=True)
class Component:
    """One real part: the commands it needs, and the Debian packages that bring them; `a|b`: the first that there is."""

    name: str
    commands: tuple[str, ...]
    packages: tuple[str, ...]
    needs_root: bool = False
    module: str = ""
    """A module of Python that it needs, from the extra `fuzz`."""


COMPONENTS = (
    Component("registry", ("docker-registry",), ("docker-registry",)),
    Component("docker", ("dockerd", "docker", "containerd", "runc"), ("docker.io", "runc"), needs_root=True),
    Component("podman", ("podman", "runc", "conmon"), ("podman", "runc", "conmon"), needs_root=True),
    Component("skopeo", ("skopeo",), ("skopeo",)),
    Component("umoci", ("umoci",), ("umoci",)),
    Component("buildah", ("buildah",), ("buildah",), needs_root=True),
    Component("busybox", ("busybox",), ("busybox-static",)),
    Component("debootstrap", ("debootstrap",), ("debootstrap",), needs_root=True),
    Component("htpasswd", ("htpasswd",), ("apache2-utils",)),
    Component("openssl", ("openssl",), ("openssl",)),
    Component("patchelf", ("patchelf",), ("patchelf",)),
    Component("binutils", ("readelf",), ("binutils",)),
    Component("gcc", ("gcc",), ("gcc", "libc6-dev")),
    Component("linkers", ("ld.lld", "mold"), ("lld", "mold")),
    Component("gold", ("ld.gold",), ("binutils-gold|binutils",)),
    Component("elfutils", ("eu-strip",), ("elfutils",)),
    Component("gcc-aarch64", ("aarch64-linux-gnu-gcc",), ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")),
    Component(
        "gcc-powerpc64le", ("powerpc64le-linux-gnu-gcc",), ("gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross")
    ),
    Component("gcc-riscv64", ("riscv64-linux-gnu-gcc",), ("gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross")),
    Component("musl", ("musl-gcc",), ("musl-tools",)),
    Component("qemu-user", ("qemu-s390x", "qemu-aarch64", "qemu-ppc64le", "qemu-riscv64"), ("qemu-user",)),
    Component("gnupg", ("gpg", "gpg-agent"), ("gnupg",)),
    Component("nginx", ("nginx",), ("nginx-light",)),
    Component("strace", ("strace",), ("strace",)),
    Component("bubblewrap", ("bwrap",), ("bubblewrap",)),
    Component("charliecloud", ("ch-run",), ("charliecloud",)),
    Component("python", ("/usr/bin/python3",), ("python3", "python3-venv")),
    Component("pigz", ("pigz",), ("pigz",)),
    Component(
        "languages",
        (
            "ocaml",
            "ocamlc",
            "guile",
            "ruby",
            "escript",
            "lua5.4",
            "luajit",
            "php",
            "Rscript",
            "tclsh",
            "perl",
            "node",
            "awk",
        ),
        (
            "ocaml",
            "ocaml-interp",
            "guile-3.0",
            "ruby",
            "erlang-base",
            "lua5.4",
            "luajit",
            "php-cli",
            "r-base-core",
            "tcl",
            "nodejs",
        ),
    ),
    Component("atheris", (), (), module="atheris"),
    Component("debian-packages", ("apt-get", "dpkg-deb"), ()),
)


def component(name: str) -> Component:
    """The component of that name; KeyError for a name that is not in the list."""
    for candidate in COMPONENTS:
        if candidate.name == name:
            return candidate
    raise KeyError(name)


def find_command(command: str) -> str | None:
    """Absolute path of a command, the distribution's own first; None where there is none."""
    return shutil.which(command, path=f"{SYSTEM_PATH}:{os.environ.get('PATH', '')}")


def command_path(command: str) -> str:
    """Absolute path of a command that `require` has already vouched for."""
    found = find_command(command)
    if found is None:
        message = f"{command} is not installed"
        raise FileNotFoundError(message)
    return found


def why_missing(part: Component) -> str | None:
    """A sentence saying why the component cannot be used here; None when it can."""
    absent = [command for command in part.commands if find_command(command) is None]
    if absent:
        source = f" (Debian: {' '.join(part.packages)})" if part.packages else ""
        return f"{', '.join(absent)} not installed{source}"
    if part.module and importlib.util.find_spec(part.module) is None:
        return f"the module {part.module} is not installed (there are no builds of it for every platform)"
    if part.needs_root and os.geteuid() != 0:
        return "needs root"
    return None


def must_be_complete() -> bool:
    """Whether a missing real part is a failure: so in CI, where a skip would hide that nothing was shown."""
    return os.environ.get("CI", "").lower() in {"true", "1"}


@dataclass(slots=True)
class RealParts:
    """Which real parts this session used and which it had to do without: one per test session."""

    complete: bool
    used: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)

    def require(self, *names: str) -> None:
        """Skip the running test (fail it where everything must be there) unless all components are usable."""
        for name in names:
            reason = why_missing(component(name))
            if reason is not None:
                self.give_up(name, reason)
            self.used.add(name)

    def give_up(self, name: str, reason: str) -> NoReturn:
        """End the running test because a real part is not to be had: a skip, or a failure where all must be there."""
        import pytest

        self.used.discard(name)
        self.missing[name] = reason
        if self.complete:
            pytest.fail(f"real part missing: {name}: {reason}", pytrace=False)
        pytest.skip(f"real part missing: {name}: {reason}")

    def statement(self) -> list[str]:
        """Plain lines saying what ran and what is missing."""
        lines = [f"real parts that ran: {', '.join(sorted(self.used)) or 'none'}"]
        lines += [f"real part missing: {name}: {reason}" for name, reason in sorted(self.missing.items())]
        return lines


def cache_directory() -> Path:
    """Where slow things (a Debian base, downloaded packages) are kept between runs, outside the project.

    From the password database and not from HOME, which tests point elsewhere.
    """
    import pwd

    return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache" / "oci-binpkg-tests"
