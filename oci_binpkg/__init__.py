"""Installed software as container layers: push, run and install package prefixes through any OCI registry.

The names in `__all__` are public; all else is internal and may change without notice. Each public name is imported when
it is first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_binpkg import errors, events, testing
    from oci_binpkg.cancel import Cancel, CancelledError
    from oci_binpkg.client import Client
    from oci_binpkg.config.caches import CacheEndpoint, CacheSettings
    from oci_binpkg.config.settings import Settings, load_settings
    from oci_binpkg.errors import BinpkgError
    from oci_binpkg.events import Event, Observer
    from oci_binpkg.installs.install_manifest import Difference
    from oci_binpkg.model.content import Digest
    from oci_binpkg.model.query import Query
    from oci_binpkg.model.reference import Reference, Repository
    from oci_binpkg.model.spec import Spec
    from oci_binpkg.ops.artifacts import AttachedArtifact
    from oci_binpkg.ops.check import Rebuilds
    from oci_binpkg.ops.copy import CopyReport
    from oci_binpkg.ops.download import Downloaded
    from oci_binpkg.ops.engines import Loaded
    from oci_binpkg.ops.find import FoundPackage, Shown
    from oci_binpkg.ops.index import IndexReport
    from oci_binpkg.ops.inspect import CacheInfo, ImageInfo, LayerInfo, TagInfo
    from oci_binpkg.ops.install import Installed, InstallReport, InstallResult
    from oci_binpkg.ops.push_report import PackageResult, PushOutcome, PushReport, TaggedImage
    from oci_binpkg.ops.save_specs import SavedSpec
    from oci_binpkg.ops.search import CatalogMatch
    from oci_binpkg.ops.selection import Only
    from oci_binpkg.ops.upkeep import Verified
    from oci_binpkg.runs.obstacles import Obstacle, Verdict
    from oci_binpkg.signing.keyring import Key
    from oci_binpkg.times import Time
    from oci_binpkg.transport.credentials import Credential

__version__ = "0.1.0"
__all__ = [
    "AttachedArtifact",
    "BinpkgError",
    "CacheEndpoint",
    "CacheInfo",
    "CacheSettings",
    "Cancel",
    "CancelledError",
    "CatalogMatch",
    "Client",
    "CopyReport",
    "Credential",
    "Difference",
    "Digest",
    "Downloaded",
    "Event",
    "FoundPackage",
    "ImageInfo",
    "IndexReport",
    "InstallReport",
    "InstallResult",
    "Installed",
    "Key",
    "LayerInfo",
    "Loaded",
    "Observer",
    "Obstacle",
    "Only",
    "PackageResult",
    "PushOutcome",
    "PushReport",
    "Query",
    "Rebuilds",
    "Reference",
    "Repository",
    "SavedSpec",
    "Settings",
    "Shown",
    "Spec",
    "TagInfo",
    "TaggedImage",
    "Time",
    "Verdict",
    "Verified",
    "__version__",
    "errors",
    "events",
    "load_settings",
    "testing",
]

_MODULES = {
    "cancel": ("Cancel", "CancelledError"),
    "client": ("Client",),
    "config.caches": ("CacheEndpoint", "CacheSettings"),
    "config.settings": ("Settings", "load_settings"),
    "errors": ("BinpkgError",),
    "events": ("Event", "Observer"),
    "installs.install_manifest": ("Difference",),
    "model.content": ("Digest",),
    "model.query": ("Query",),
    "model.reference": ("Reference", "Repository"),
    "model.spec": ("Spec",),
    "ops.artifacts": ("AttachedArtifact",),
    "ops.check": ("Rebuilds",),
    "ops.copy": ("CopyReport",),
    "ops.download": ("Downloaded",),
    "ops.engines": ("Loaded",),
    "ops.find": ("FoundPackage", "Shown"),
    "ops.index": ("IndexReport",),
    "ops.inspect": ("CacheInfo", "ImageInfo", "LayerInfo", "TagInfo"),
    "ops.install": ("Installed", "InstallReport", "InstallResult"),
    "ops.push_report": ("PackageResult", "PushOutcome", "PushReport", "TaggedImage"),
    "ops.save_specs": ("SavedSpec",),
    "ops.search": ("CatalogMatch",),
    "ops.selection": ("Only",),
    "ops.upkeep": ("Verified",),
    "runs.obstacles": ("Obstacle", "Verdict"),
    "signing.keyring": ("Key",),
    "times": ("Time",),
    "transport.credentials": ("Credential",),
}
"""Where the public names come from: module below this package, and names in it."""


def __getattr__(name: str) -> Any:
    """Import a public name that is used for the first time."""
    from importlib import import_module  # noqa: PLC0415 - not every program that imports the package needs it

    module = next((module for module, names in _MODULES.items() if name in names), "")
    if name in ("errors", "events", "testing"):
        found: Any = import_module(f"{__name__}.{name}")
    elif module:
        found = getattr(import_module(f"{__name__}.{module}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__all__})
