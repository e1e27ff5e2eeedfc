"""Platforms of images: this machine's, and those that packages are made for."""

from __future__ import annotations

import platform as host

from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Platform
from oci_binpkg.model.spec import Spec


def this_platform() -> Platform:
    """Return the platform of containers on this machine (engines run Linux containers, also on a Mac)."""
    return Platform("linux", Arch("linux", "", host.machine().lower()).go_architecture)


def platform_of(spec: Spec) -> Platform:
    """Return the container platform of a package."""
    system = "linux" if spec.arch.platform in ("linux", "cray", "") else spec.arch.platform
    return Platform(system, spec.arch.go_architecture)
