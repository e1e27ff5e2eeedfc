"""Fuzz one target with atheris: `python -m fuzz elf --seconds 60`, in the folder `registry-test`.

What is found is kept in `corpus/TARGET/`; `python -m fuzz elf FILE...` runs files through the target, without atheris.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
ALLOWED_SECONDS, ALLOWED_MIB = 5, 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or end with atheris' own status when something is found."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Bytes that nobody should send.")
    parser.add_argument("target", choices=["extractor", "elf", "macho", "documents"])
    parser.add_argument("files", nargs="*", type=Path, help="run these, and nothing else")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="for the same run again (0: another one each time)")
    parser.add_argument("--finds", type=Path, help="where what is found goes (corpus/TARGET)")
    given = parser.parse_args(arguments)
    if not given.files:
        fuzz(given.target, given.seconds, given.seed, given.finds or HERE / "corpus" / given.target)
    from fuzz.targets import TARGETS

    for file in given.files:
        TARGETS[given.target].run(file.read_bytes())
    return 0


def fuzz(name: str, seconds: int, seed: int, finds: Path) -> None:
    """Fuzz until the time is over or something is found; atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=["oci_binpkg"]):
        from fuzz.targets import TARGETS, corpus
    target = TARGETS[name]
    finds.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seeds = [*target.seeds(), *(path.read_bytes() for path in corpus(name))]
    (place / "seeds").mkdir()
    for number, data in enumerate(seeds):
        (place / "seeds" / str(number)).write_bytes(data)
    (place / "words").write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    options = {
        "max_total_time": seconds,
        "timeout": ALLOWED_SECONDS,
        "rss_limit_mb": ALLOWED_MIB,
        "max_len": max(target.longest, *map(len, seeds)),
        "seed": seed,
        "dict": place / "words",
        "artifact_prefix": f"{finds}/",
        "print_final_stats": 1,
        "verbosity": 1,
    }
    os.environ["TMPDIR"] = tempfile.tempdir = str(place)
    atheris.Setup(
        [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(place / "seeds")], target.run
    )
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
