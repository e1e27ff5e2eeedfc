"""Install the real parts that the tests can be run against, from Debian's packages, and say plainly what is missing.

`install_parts.py` installs what is missing where apt-get and root (or sudo without a password) are there.
`install_parts.py --report` only says what is there. Needs nothing but Python; ends with 1 if a part is missing and the
environment says CI=true, otherwise with 0.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.real.components import COMPONENTS, find_command, must_be_complete, why_missing

_POLICY = Path("/usr/sbin/policy-rc.d")


def become_root() -> list[str] | None:
    """What to put before a command so that it runs as root; None where there is no way."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], check=False, capture_output=True).returncode == 0:
        return [sudo, "-n"]
    return None


def wanted_packages() -> list[str]:
    """Debian packages of the components that lack a command."""
    lacking = [part for part in COMPONENTS if any(find_command(command) is None for command in part.commands)]
    return sorted({package for part in lacking for package in part.packages})


@contextlib.contextmanager
def services_stay_down(root: list[str]) -> Iterator[None]:
    """Debian starts a package's service when it is installed; the tests start their own, so forbid it meanwhile."""
    if _POLICY.exists():
        yield
        return
    script = "#!/bin/sh\\nexit 101\\n"
    subprocess.run([*root, "sh", "-c", f"printf '{script}' > {_POLICY} && chmod 755 {_POLICY}"], check=True)
    try:
        yield
    finally:
        subprocess.run([*root, "rm", "-f", str(_POLICY)], check=False)


def known_package(alternatives: str) -> str:
    """Of names between bars, the first that this release of Debian has."""
    names = alternatives.split("|")
    for name in names[:-1]:
        if subprocess.run(["apt-cache", "show", name], check=False, capture_output=True).returncode == 0:
            return name
    return names[-1]


def install(packages: list[str], root: list[str]) -> int:
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "Dpkg::Use-Pty=0"]
    subprocess.run([*apt, "update"], check=False, stdout=subprocess.DEVNULL)
    with services_stay_down(root):
        argv = [*apt, "install", "--yes", "--no-install-recommends", *map(known_package, packages)]
        return subprocess.run(argv, check=False, stdout=subprocess.DEVNULL).returncode


def report() -> int:
    missing = {part.name: reason for part in COMPONENTS if (reason := why_missing(part)) is not None}
    there = [part.name for part in COMPONENTS if part.name not in missing]
    print(f"real parts here: {', '.join(there) or 'none'}")
    for name, reason in missing.items():
        print(f"real part missing: {name}: {reason}")
    if missing and not must_be_complete():
        print("tests that need a missing part are skipped")
    return 1 if missing and must_be_complete() else 0


def main() -> int:
    packages = wanted_packages()
    if packages and "--report" not in sys.argv[1:]:
        root = become_root()
        if shutil.which("apt-get") is None:
            print(f"no apt-get here: install what Debian calls {' '.join(packages)} yourself to run all real tests")
        elif root is None:
            print(f"not root and no sudo: 'apt-get install {' '.join(packages)}' is left to you")
        else:
            print(f"installing {' '.join(packages)}")
            if install(packages, root) != 0:
                print("apt-get could not install all of them", file=sys.stderr)
    return report()


if __name__ == "__main__":
    sys.exit(main())
