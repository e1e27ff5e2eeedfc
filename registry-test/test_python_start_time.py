"""Python starts as fast from an installed tree and from the files of an image as where its modules were compiled.

The modules are those of the Python that runs the tests. Nothing is written while they are timed, as in an image with a
read-only file system.
"""

from __future__ import annotations

import compileall
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.support.command_line import binpkg

pytestmark = pytest.mark.real

MODULES = [
    "abc",
    "argparse",
    "ast",
    "asyncio",
    "base64",
    "bdb",
    "bisect",
    "bz2",
    "calendar",
    "cmd",
    "code",
    "codecs",
    "codeop",
    "collections.abc",
    "colorsys",
    "compileall",
    "concurrent.futures",
    "configparser",
    "contextlib",
    "contextvars",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "dis",
    "doctest",
    "email.mime.multipart",
    "email.parser",
    "enum",
    "filecmp",
    "fileinput",
    "fnmatch",
    "fractions",
    "ftplib",
    "functools",
    "getopt",
    "getpass",
    "gettext",
    "glob",
    "graphlib",
    "gzip",
    "hashlib",
    "heapq",
    "hmac",
    "html.parser",
    "http.client",
    "http.cookiejar",
    "http.server",
    "imaplib",
    "importlib.metadata",
    "importlib.resources",
    "inspect",
    "ipaddress",
    "json",
    "keyword",
    "linecache",
    "locale",
    "logging.config",
    "logging.handlers",
    "lzma",
    "mailbox",
    "mimetypes",
    "multiprocessing.pool",
    "netrc",
    "numbers",
    "opcode",
    "operator",
    "optparse",
    "pathlib",
    "pdb",
    "pickle",
    "pickletools",
    "pkgutil",
    "platform",
    "plistlib",
    "poplib",
    "pprint",
    "profile",
    "pstats",
    "py_compile",
    "pydoc",
    "queue",
    "quopri",
    "random",
    "re",
    "reprlib",
    "runpy",
    "sched",
    "secrets",
    "selectors",
    "shelve",
    "shlex",
    "shutil",
    "signal",
    "smtplib",
    "socketserver",
    "sqlite3",
    "ssl",
    "statistics",
    "string",
    "stringprep",
    "subprocess",
    "symtable",
    "tabnanny",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "timeit",
    "tokenize",
    "trace",
    "traceback",
    "tracemalloc",
    "types",
    "typing",
    "unittest.mock",
    "urllib.request",
    "uuid",
    "venv",
    "warnings",
    "wave",
    "weakref",
    "webbrowser",
    "xml.dom.minidom",
    "xml.etree.ElementTree",
    "xmlrpc.client",
    "zipapp",
    "zipfile",
]
ROUNDS = 9
ALLOWED = 1.1
SLACK = 0.01
"""CPU seconds: what the clock of a process cannot tell apart."""


def library(prefix: Path) -> Path:
    """The modules as a package of their own, compiled where they lie."""
    source = Path(sysconfig.get_path("stdlib"))
    target = prefix / "lib" / source.name
    unwanted = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages", "test", "tests", "config-*")
    shutil.copytree(source, target, ignore=unwanted)
    for path in target.rglob("*.py"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    compileall.compile_dir(str(target), quiet=2, workers=0)
    return target


def seconds(folder: Path) -> float:
    """CPU seconds of a Python that imports all modules from `folder` and writes nothing."""
    code = f"import time, {', '.join(MODULES)}; print(time.process_time(), argparse.__file__)"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-S", "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    took, place = ended.stdout.split()
    assert place == f"{folder}/argparse.py"
    return float(took)


def test_a_hundred_modules_are_imported_as_fast_as_where_they_were_compiled(tmp_path: Path) -> None:
    assert len(MODULES) >= 100
    original = library(tmp_path / "built" / "python")
    (tmp_path / "built" / "packages.toml").write_text(
        '[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
        '[[package]]\nname = "python"\nversion = "3"\nprefix = "python"\n'
    )
    cache = tmp_path / "cache"
    pushed = binpkg("push", f"oci-layout:{cache}", "--store", tmp_path / "built", "--update-index")
    assert pushed.code == 0, pushed.err
    root = tmp_path / "a-root-that-is-longer-than-the-old-one"
    ended = binpkg("install", "python", "--from", f"oci-layout:{cache}", "--store", root)
    assert ended.code == 0, ended.err
    (installed,) = root.glob("*/python-3-*/lib/python3*")
    digest = binpkg("show", "python", "--from", f"oci-layout:{cache}", "--json").json["layer"]
    with tarfile.open(cache / "blobs" / "sha256" / digest.partition(":")[2]) as layer:
        layer.extractall(tmp_path / "image", filter="tar")
    unpacked = tmp_path / "image" / original.relative_to("/")
    stale = tmp_path / "stale"
    shutil.copytree(original, stale, copy_function=shutil.copy)

    places = {"original": original, "installed": installed, "image": unpacked, "stale": stale}
    times: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(ROUNDS):
        for name, folder in places.items():
            times[name].append(seconds(folder))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print({name: round(taken, 3) for name, taken in medians.items()})

    assert medians["installed"] <= ALLOWED * medians["original"] + SLACK, medians
    assert medians["image"] <= ALLOWED * medians["original"] + SLACK, medians
    assert medians["stale"] > 2 * medians["original"], "the measurement does not see stale files"
