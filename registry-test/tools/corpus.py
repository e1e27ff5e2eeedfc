"""Unpack real Debian packages into prefixes of their own: `python registry-test/tools/corpus.py --count 200 DIRECTORY`.

DIRECTORY gets `packages.toml` and `prefixes/`; downloads are kept in ~/.cache/oci-binpkg-tests for the next time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.real.components import cache_directory
from tests.support.real.debian_packages import ROOTS, CorpusError, build_corpus


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path, help="where to unpack; must not hold a corpus yet")
    parser.add_argument("--count", type=int, default=200, help="how many packages (default 200)")
    parser.add_argument("--root", action="append", help=f"package whose closure is taken (default {', '.join(ROOTS)})")
    arguments = parser.parse_args()
    cache = cache_directory() / "packages"
    directory = arguments.directory.resolve()
    try:
        corpus = build_corpus(arguments.count, cache=cache, directory=directory, roots=arguments.root or ROOTS)
    except (CorpusError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(corpus.names)} packages in {corpus.packages_toml}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
