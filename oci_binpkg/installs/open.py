"""Opening a directory of packages, whatever kind it is."""

from __future__ import annotations

import os
from collections.abc import Sequence

from oci_binpkg.errors import InstallsError
from oci_binpkg.file_lock import Patience
from oci_binpkg.installs.protocol import PACKAGES_FILE, PADDING, InstallTree, check_root, has_packages_file
from oci_binpkg.installs.spack import SpackInstalls, is_spack_tree, tree_hint


def open_installs(
    path: str, *, spack_prefix: str = "", upstreams: Sequence[str] = (), patience: Patience | None = None
) -> InstallTree:
    """Open a Spack install tree or a folder with a `packages.toml`.

    A root that was padded to a fixed length is found from the directory above the padding. Raises `InstallsError`
    naming both kinds if `path` is neither, and where both are.
    """
    root = _below_padding(check_root(path))
    spack, described = is_spack_tree(root), has_packages_file(root)
    if spack and described:
        raise InstallsError(
            f"{root}: a Spack install tree and a {PACKAGES_FILE} in one directory",
            hint=f"move {PACKAGES_FILE} elsewhere",
        )
    if described:
        from oci_binpkg.installs.packages_toml import PrefixInstalls

        return PrefixInstalls(root, spack_prefix=spack_prefix)
    if spack:
        return SpackInstalls(root, spack_prefix=spack_prefix, upstreams=upstreams, patience=patience, complete=True)
    what = "is not a directory" if not os.path.isdir(root) else "holds no packages that can be read"
    raise InstallsError(
        f"{path}: {what}", hint=f"{tree_hint(root)}; other prefixes are described in a {PACKAGES_FILE} beside them"
    )


def _below_padding(path: str) -> str:
    """Descend into path components that only pad; the last one may be cut anywhere."""
    while not is_spack_tree(path):
        try:
            entries = os.listdir(path)
        except OSError:
            return path
        padding = [entry for entry in entries if PADDING.startswith(entry) and entry.startswith("_")]
        if len(padding) != 1:
            return path
        path = os.path.join(path, padding[0])
    return path
