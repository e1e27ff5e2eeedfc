"""What an install may build on: packages that are there already, and what is known here of those that come again.

An install that takes nothing but what is signed builds on nothing else: a dependency that came without a signature
earlier would run with the rights of what is signed. What Spack built in the tree is its owner's own. A signature that
was verified when the package came stays good, also when its key has expired since: the tree's own record is the one
trusted time there is. It counts no more when its key was revoked, or is not trusted any longer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence

from oci_binpkg.cache.protocol import CacheEntry
from oci_binpkg.errors import Hint, SignatureError, Step
from oci_binpkg.installs.protocol import InstallRecord
from oci_binpkg.installs.verifications import Verification, Verifications
from oci_binpkg.model.run_environment import environment_document

_SHOWN = 5


def why_not(known: Verification | None, signers: Callable[[], frozenset[str]] | None) -> str:
    """Return why a signed install must not build on a package that is there, "" if it may.

    `signers` returns the fingerprints of the keys that count now; None: those that counted then do.
    """
    if known is None:
        return ""
    if not known.is_signed:
        return f"not signed: {known.reason}"
    if signers is not None and known.signer not in signers():
        return f"signed by the key {known.signer}, which is revoked or not trusted any more"
    return ""


def check_present(
    records: Iterable[InstallRecord], verified: Verifications, signers: Callable[[], frozenset[str]] | None
) -> None:
    """Raise `SignatureError` if a signed install must not build on one of the packages that are there."""
    refused = [(record, reason) for record in records if (reason := why_not(verified.of(record), signers))]
    if not refused:
        return
    listed = "; ".join(f"{record.spec.short} ({reason})" for record, reason in refused[:_SHOWN])
    more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    raise SignatureError(
        f"signatures are asked for, and what is installed already lacks a good one: {listed}{more}",
        hint=Hint(Step.REINSTALL, packages=_exact(refused)),
    )


def _exact(refused: Sequence[tuple[InstallRecord, str]]) -> str:
    return " ".join(f"{r.spec.name}@={r.spec.version}/{r.spec.hash}" for r, _ in refused[:_SHOWN])


def older_than_known(entry: CacheEntry, known: Verification | None, cache: str) -> str:
    """Return the warning about a package that comes again as an older signed build or an unsigned one; or ""."""
    if known is None or not known.is_signed or str(entry.manifest) == known.manifest:
        return ""
    short = entry.document.root.short
    if entry.signed is None:
        return f"{short} from {cache} is not signed; the one that is installed was, on {_day(known.signed_at)}"
    if entry.signed.made < known.signed_at:
        made = _day(entry.signed.made)
        return (
            f"{short} from {cache} was signed on {made}; the one that is installed is newer, of {_day(known.signed_at)}"
        )
    return ""


def verification_of(entry: CacheEntry, cache: str, installation_time: float) -> Verification:
    """Return what was verified of a package that is being installed."""
    spec, signed = entry.document.root, entry.signed
    found = Verification(
        spec.hash,
        installation_time,
        cache,
        str(entry.manifest or ""),
        str(entry.layer.blob.descriptor.digest),
        node_hash=spec.hash_state.value,
        environment=json.dumps(environment_document(entry.environment)) if entry.environment else "",
    )
    return found if signed is None else found.signed(signed.signer, signed.made)


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
