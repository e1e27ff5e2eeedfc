"""Takes behaviours out, one by one, in a copy of the tree, and runs the tests that must notice: `make mutations`.

A mutation is a file, a text in it, what is put in its place, and the tests of which at least one must fail in each file
named. A survivor means that a fault of the table in README.md is not held by its test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("oci_binpkg", "tests", "registry-test", "fixtures", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Mutation:
    """`fault` says which behaviour goes; `tests` is an expression for pytest's -k within `where`, and all must pass without."""

    fault: str
    file: str
    old: str
    new: str
    tests: str
    where: str = "registry-test"


MUTATIONS = (
    Mutation(
        "F01: a cut connection is tried again",
        "oci_binpkg/transport/retry.py",
        "return not outcome.failure.lasting",
        "return False",
        "F01",
    ),
    Mutation(
        "F07: what cannot change is not asked again",
        "oci_binpkg/transport/retry.py",
        "RETRIED_STATUSES: Final = frozenset({408,",
        "RETRIED_STATUSES: Final = frozenset({400, 404, 405, 408,",
        "F07",
    ),
    Mutation(
        "F08: Retry-After stops all workers",
        "oci_binpkg/transport/client.py",
        "gate.pause(delay)",
        "pass",
        "F08",
    ),
    Mutation(
        "F16: bytes of another digest are refused",
        "oci_binpkg/store/download.py",
        "if hasher.hexdigest() != digest.hex:",
        "if False:",
        "F16",
    ),
    Mutation(
        "F18: a part that is not the one asked for is not spliced in",
        "oci_binpkg/store/download.py",
        "return not multipart and match is not None and [int(n) for n in match.groups()] == [first, last, last + 1]",
        "return True",
        "F18",
    ),
    Mutation(
        "F21: the login stays behind where the origin changes",
        "oci_binpkg/transport/client.py",
        'authorization = ""\n            credentials',
        "pass\n            credentials",
        "F21",
    ),
    Mutation(
        "F30: a token that is over is replaced by one request for all",
        "oci_binpkg/transport/auth.py",
        "if token is None or token.value == rejected or not",
        "if token is None or rejected or not",
        "F30",
    ),
    Mutation(
        "F35: a blob whose answer was lost is looked for before it is sent again",
        "oci_binpkg/store/upload.py",
        "            if self._is_seen(descriptor, where_blind=False):\n                return True\n",
        "",
        "F35",
    ),
    Mutation(
        "F41: uploads go to no origin that is not allowed",
        "oci_binpkg/store/distribution.py",
        "if origin is None or (origin != origin_of(self.api) and str(origin) not in self.settings.upload_origins):",
        "if origin is None:",
        "F41",
    ),
    Mutation(
        "F46: fewer requests at once where the registry is overloaded",
        "oci_binpkg/transport/gate.py",
        "self._limit = max(1, self._limit // 2)",
        "pass",
        "F46 and storm",
    ),
    Mutation(
        "bad layer: a member outside its prefix is refused",
        "oci_binpkg/archive/members.py",
        "",
        "",
        "",
        "tests/unit/archive",
    ),
)
