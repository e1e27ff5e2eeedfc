"""What a measurement was made on: the machine, and the versions of all that was compared."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from tests.support.real.components import find_command

COMMANDS = {
    "docker": ("docker", "--version"),
    "podman": ("podman", "--version"),
    "buildah": ("buildah", "--version"),
    "skopeo": ("skopeo", "--version"),
    "GNU tar": ("tar", "--version"),
    "pigz": ("pigz", "--version"),
    "Distribution registry": ("docker-registry", "--version"),
}


def describe() -> dict[str, str]:
    """Return the facts that a reader needs to judge the figures, in the order in which they are shown."""
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: version for name, command in COMMANDS.items() if (version := _version(command))},
    }


def missing() -> list[str]:
    """Return the commands that are not here."""
    return [command for command, _ in COMMANDS.values() if find_command(command) is None]


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return re.sub(r"\s+", " ", found[1]).replace("(R)", "") if found else platform.machine()


def _version(command: tuple[str, str]) -> str:
    path = find_command(command[0])
    if path is None:
        return ""
    done = subprocess.run([path, *command[1:]], check=False, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+[0-9.]*", done.stdout + done.stderr)
    return found[0].rstrip(".") if found else ""
