"""Programs with paths in `wchar_t`, `char16_t` and `char32_t`, compiled here, open their files in the new place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from oci_binpkg.errors import RelocationError
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.tree import relocate_tree
from tests.support.real.components import RealParts

pytestmark = pytest.mark.real

HASH = "a" * 32
PROGRAM = """
#include <stddef.h>
#include <stdio.h>
#include <uchar.h>
static const wchar_t *w = L"PREFIX/share/name";
static const char16_t *u = u"PREFIX//share/name";
static const char32_t *U = U"PREFIX/./share/name";
static const wchar_t *tail = L"re/name", *other = L"/etc/PREFIX/share";
static int show(const char *path) {
  int c; FILE *f = fopen(path, "r");
  if (!f) { perror(path); return 1; }
  while ((c = getc(f)) != EOF) putchar(c);
  return fclose(f);
}
#define SHOW(text) { char b[999]; size_t n = 0; do b[n] = (char)(text)[n]; while ((text)[n++]); failed |= show(b); }
int main(void) {
  int failed = 0;
  SHOW(w) SHOW(u) SHOW(U)
  printf("%ls %ls\\n", tail, other);
  return failed;
}
"""


def moving(old: Path, new: Path) -> PrefixMap:
    return mapping_for({HASH: f"{old}/app"}, {HASH: f"{new}/app-h"}, root=(str(old), str(new)))


@pytest.mark.parametrize("optimized", ["-O0", "-O2"])
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
def test_a_program_opens_its_files_by_wide_names(parts: RealParts, tmp_path: Path, optimized: str, linker: str) -> None:
    parts.require("gcc", "linkers", "gold")
    old, new = tmp_path / "the-old-store-of-all", tmp_path / "new"
    (old / "app/share").mkdir(parents=True)
    (old / "app/share/name").write_text("found ")
    source = tmp_path / "p.c"
    source.write_text(PROGRAM.replace("PREFIX", f"{old}/app"))
    command: list[str | Path] = ["gcc", optimized, f"-fuse-ld={linker}", "-o", old / "app/program", source]
    subprocess.run(command, check=True, timeout=60)
    longer = tmp_path / "a-new-store-with-a-name-that-is-longer-than-the-old-one"
    new.mkdir()
    shutil.copytree(old / "app", new / "app-h")
    (old / "app").rename(old / "gone")

    shutil.copytree(new / "app-h", longer / "app-h")
    with pytest.raises(RelocationError, match="no room for"):
        relocate_tree(str(longer / "app-h"), moving(old, longer), binaries=["program"])
    relocate_tree(str(new / "app-h"), moving(old, new), binaries=["program"])

    done = subprocess.run([new / "app-h/program"], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == f"found found found re/name /etc/{old}/app/share\n"
