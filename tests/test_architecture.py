"""The shape of the code, held by tests: who may import whom, how long things get, what may stand where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "oci_binpkg"
MODULES = sorted(PACKAGE.rglob("*.py"))

LONGEST_FUNCTION = 60
MOST_METHODS = 7
BROAD_HANDLERS = 2
# "helper" in the singular is the field's own word for a credential helper.
WORDS_THAT_SAY_NOTHING = {"utils", "util", "helpers", "common", "manager", "misc"}
TERMINAL = PACKAGE / "cli" / "terminal.py"
LOGS = PACKAGE / "cli" / "logs.py"
SETTINGS = {PACKAGE / "config" / "settings.py", PACKAGE / "config" / "scene.py"}


@cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"), filename=str(module))


def where(module: Path, node: ast.AST) -> str:
    return f"{module.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    return [(module, node) for module in MODULES for node in ast.walk(tree(module))]


def test_imports_point_one_way() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_functions_stay_short() -> None:
    long = [
        f"{where(module, node)} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for module, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


TWINS = {
    "protocol": "each room's own protocols: caches, stores, objects, installs",
    "open": "from text to a cache, from a folder to an install tree",
    "caches": "caches by name in the configuration, and the commands about whole caches",
    "mirror": "packages on a mirror, and the commands that give caches names",
    "images": "the images of a store, and the commands that look into images and use them",
    "copy": "the copy of blobs between stores, and the command",
    "download": "a blob from a registry, and the command",
    "search": "a search in an index, and the command",
}
"""Stems that stand in several folders, each with the reason. A command has one name in `cli` and in `ops`."""
SMALL_MODULE = 40


def stems() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for module in MODULES:
        if not module.stem.startswith("__"):
            found.setdefault(module.stem, []).append(module)
    return found


def test_no_two_modules_have_one_name() -> None:
    commands = {PACKAGE / "cli", PACKAGE / "ops"}
    twins = {
        stem: [str(module.relative_to(ROOT)) for module in modules]
        for stem, modules in stems().items()
        if len(modules) > 1 and {module.parent for module in modules} != commands
    }
    assert sorted(twins) == sorted(TWINS), twins


def test_no_two_modules_have_a_class_of_one_name() -> None:
    """A name stands for one thing, whether or not a leading underscore makes it private."""
    found: dict[str, list[str]] = {}
    for module, node in nodes():
        if isinstance(node, ast.ClassDef):
            found.setdefault(node.name.lstrip("_"), []).append(where(module, node))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def imported_by() -> dict[Path, set[Path]]:
    """Return the modules of the package that import each one."""
    importers: dict[Path, set[Path]] = {module: set() for module in MODULES}
    by_name = {".".join(module.relative_to(ROOT).with_suffix("").parts): module for module in MODULES}
    for module, node in nodes():
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                if name in by_name:
                    importers[by_name[name]].add(module)
    return importers


def test_no_module_is_too_small_to_be_a_room() -> None:
    """What one other module alone needs, and fits on a screen, is a part of that module."""
    small = [
        str(module.relative_to(ROOT))
        for module, importers in imported_by().items()
        if not module.stem.startswith("__")
        and len(importers) == 1
        and len(module.read_text(encoding="utf-8").splitlines()) < SMALL_MODULE
    ]
    assert small == []


NAMES_OF_FILES = {
    "disk.py": "files are replaced, moved and synced here",
    "installs/transaction.py": "prefixes, which are folders: their trees and parents are synced there",
    "archive/destination.py": "members of a tree that has no name of its own yet",
    "relocate/tree.py": "links of such a tree",
    "archive/root_layer.py": "members of a layer that has no name of its own yet",
    "archive/merged_root.py": "links of a tree that lasts as long as one run",
    "archive/unpacked_layers.py": "unpacked layers, which are synced as a tree before",
    "ops/unpack.py": "the record of files in such a tree",
}
"""Who gives a file its name, with the reason. Elsewhere a file could get one without being synced."""
LOCKS = {
    "file_lock.py": "one lock for a file or a folder",
    "installs/locking.py": "ranges of bytes, as Spack locks them",
}


def test_files_get_their_names_and_locks_in_one_place() -> None:
    namers, lockers = set(), set()
    for module, node in nodes():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = str(module.relative_to(PACKAGE))
            if node.value.id == "os" and node.attr in {"replace", "rename", "link", "fsync", "fdatasync"}:
                namers.add(name)
            if node.value.id == "fcntl" and node.attr in {"flock", "lockf", "fcntl"}:
                lockers.add(name)
    assert namers == set(NAMES_OF_FILES)
    assert lockers == set(LOCKS)


def test_protocols_ask_for_little() -> None:
    wide = [
        f"{where(module, node)} {node.name}"
        for module, node in nodes()
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
        and sum(isinstance(member, ast.FunctionDef) and not member.decorator_list for member in node.body)
        > MOST_METHODS
    ]
    assert wide == []


def test_names_say_what_is_inside() -> None:
    words = {path: set(path.stem.split("_")) for path in PACKAGE.rglob("*") if path.suffix == ".py" or path.is_dir()}
    assert [str(path.relative_to(ROOT)) for path, parts in words.items() if parts & WORDS_THAT_SAY_NOTHING] == []


def catches_everything(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(name, ast.Name) and name.id in {"Exception", "BaseException"} for name in caught)


def reraises(handler: ast.ExceptHandler) -> bool:
    """Whether the handler only tidies up: its last statement passes the same exception on."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_broad_handlers_stand_in_two_places_at_most() -> None:
    broad = [
        where(module, node)
        for module, node in nodes()
        if isinstance(node, ast.ExceptHandler) and catches_everything(node) and not reraises(node)
    ]
    assert len(broad) <= BROAD_HANDLERS, broad


def reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in {"environ", "environb", "getenv", "getenvb"}
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in {"environ", "environb", "getenv", "getenvb"} for alias in node.names)
    return False


def test_only_the_settings_read_the_environment() -> None:
    assert [where(m, node) for m, node in nodes() if m not in SETTINGS and reads_environment(node)] == []


HARMLESS_OF_LOGGING = {"getLogger", "Logger", "DEBUG", "INFO"}
"""A logger shows nothing until it gets a handler - but for warnings and errors, which Python shows without one."""


def shows_something(node: ast.AST) -> bool:
    """Whether this is a way to a terminal or to the standard streams."""
    match node:
        case (
            ast.Attribute(
                value=ast.Name(id="sys"),
                attr="stdin" | "stdout" | "stderr" | "__stdin__" | "__stdout__" | "__stderr__",
            )
            | ast.Call(func=ast.Name(id="print" | "input" | "breakpoint"))
            | ast.Call(func=ast.Attribute(attr="warning" | "exception" | "critical"), args=[_, *_])
            | ast.Call(
                func=ast.Attribute(attr="echo" | "secho" | "prompt" | "confirm" | "print_exc" | "print_exception")
            )
            | ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="write"), args=[ast.Constant(), *_])
        ):
            return True
        case ast.Attribute(value=ast.Name(id="logging"), attr=str(name)):
            return name not in HARMLESS_OF_LOGGING
        case ast.Import():
            return any(
                alias.name.split(".")[0] in {"rich", "getpass", "warnings"} or alias.name.startswith("logging.")
                for alias in node.names
            )
        case ast.ImportFrom(module=str(module)):
            names = {alias.name for alias in node.names}
            return (
                module.split(".")[0] in {"rich", "getpass", "warnings"}
                or (module == "sys" and bool(names & {"stdin", "stdout", "stderr"}))
                or (module.split(".")[0] == "logging" and bool(names - HARMLESS_OF_LOGGING))
            )
    return False


def under_type_checking(module: Path) -> set[int]:
    """Lines that only type checkers read."""
    blocks = (
        node for node in ast.walk(tree(module)) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    )
    return {line for block in blocks for line in range(block.lineno, (block.end_lineno or block.lineno) + 1)}


def test_only_the_terminal_module_shows_anything() -> None:
    """Text of strangers is cleaned there; whoever has another way to the terminal forgets to."""
    ways = [
        where(module, node)
        for module, node in nodes()
        if module not in {TERMINAL, LOGS}
        and shows_something(node)
        and getattr(node, "lineno", 0) not in under_type_checking(module)
    ]
    assert ways == []


@pytest.mark.parametrize(
    "line",
    [
        *("sys.stderr.write(text)", "sys.stdout.flush()", "print(text)", "typer.echo(text, err=True)", "input()"),
        *("import rich.console", "from rich import print", "from sys import stderr", "os.write(2, data)"),
        *("import logging.handlers", "from logging import StreamHandler", "logging.basicConfig()", "log.warning(text)"),
        *(
            "logging.info(text)",
            "logging.getLogger().addHandler(logging.StreamHandler())",
            "import getpass",
            "traceback.print_exc()",
            "warn = sys.__stderr__.write",
        ),
    ],
)
def test_a_way_around_the_terminal_module_is_noticed(line: str) -> None:
    assert any(shows_something(node) for node in ast.walk(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["import logging", 'log = logging.getLogger("a.b")', "log.debug(text)", "log.info(text)"]
)
def test_a_logger_without_a_handler_shows_nothing(line: str) -> None:
    assert not any(shows_something(node) for node in ast.walk(ast.parse(line)))


def test_the_handlers_of_logs_have_no_way_of_their_own_to_the_terminal() -> None:
    ways = [node for node in ast.walk(tree(LOGS)) if shows_something(node)]
    assert {ast.unparse(node) for node in ways} == {"logging.Handler", "logging.LogRecord", "logging.CRITICAL"}


OPENED = {"OciCache", "MirrorCache", "MirrorV2Cache", "LayoutStore", "RegistryStore", "VerifiedStore"}
MAY_OPEN = {
    "cache/open.py",  # which is told what is asked of signatures
    "cache/oci.py",  # VerifiedStore, around the store that it was given
    "connections.py",  # RegistryStore, for the opener alone
}


def test_caches_and_stores_are_opened_where_somebody_says_what_is_asked_of_signatures() -> None:
    opened = [
        f"{where(module, node)} {node.func.id}"
        for module, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OPENED
        if str(module.relative_to(PACKAGE)) not in MAY_OPEN
    ]
    assert opened == []


def test_whoever_opens_a_cache_or_store_has_to_say_what_is_asked_of_signatures() -> None:
    (opener,) = (node for _, node in nodes() if isinstance(node, ast.ClassDef) and node.name == "Opener")
    verbs = [node for node in opener.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    required = [
        (verb.name, *(arg.arg for arg in verb.args.args[: len(verb.args.args) - len(verb.args.defaults)]))
        for verb in verbs
    ]
    assert required == [(name, "self", "location", "trust") for name in ("store", "images", "cache", "writable")]


CLASSES_OF_BACKENDS = re.compile(r"\w*(Cache|Store|Installs|Objects)")
"""What a cache, a store or a tree can do, it says itself: by the protocols of its room."""


def test_nobody_asks_a_cache_store_or_tree_for_its_class() -> None:
    makers = {
        node.name: module
        for module, node in nodes()
        if isinstance(node, ast.ClassDef)
        and CLASSES_OF_BACKENDS.fullmatch(node.name)
        and not any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    }
    asked = [
        f"{where(module, node)} {name.id}"
        for module, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"isinstance", "type"}
        for argument in node.args[1:]
        for name in ast.walk(argument)
        if isinstance(name, ast.Name) and name.id in makers and makers[name.id] != module
    ]
    assert asked == []
    assert {"OciCache", "MirrorCache", "SpackInstalls", "LayoutStore", "RegistryStore"} <= set(makers)


@cache
def project_files() -> tuple[Path, ...]:
    """Files that are or would be committed, without the fixtures, whose contents other programs wrote."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = (name for name in listed.split("\0") if name and not name.startswith("fixtures/golden/"))
    return tuple(path for name in names if (path := ROOT / name).is_file())


def lines_matching(pattern: str) -> list[str]:
    found = []
    for path in project_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = enumerate(text.splitlines(), start=1)
        found += [f"{path.relative_to(ROOT)}:{number}" for number, line in lines if re.search(pattern, line)]
    return found


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    assert len(project_files()) > len(MODULES) / 2
    assert lines_matching(r"(^|[^A-Za-z0-9_.-])/(work|farm)/") == []


def test_no_file_names_a_package_registry() -> None:
    assert lines_matching(r"(?i)\b(pypi\.org|pythonhosted\.org|deb\.debian\.org|npmjs\.org)\b") == []


@pytest.mark.parametrize("option", ["--help", "version"])
def test_help_answers_without_loading_what_commands_need(option: str) -> None:
    """Start-up time is felt at every tab and every typo; these three cost more than the rest together."""
    argv = [sys.executable, "-X", "importtime", "-m", "oci_binpkg", option]
    done = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "oci_binpkg.cli.app" in loaded
    heavy = {name for name in loaded if name.split(".")[0] in {"requests", "rich", "docker"}}
    assert heavy == set()


def test_the_process_is_ended_in_one_place_only() -> None:
    """After a second Ctrl-C; everything else goes its way out, so that locks are released and files are closed."""
    exits = [
        where(module, node)
        for module, node in nodes()
        if isinstance(node, ast.Attribute) and node.attr in {"_exit", "abort"}
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    ]
    assert [place.rpartition(":")[0] for place in exits] == ["oci_binpkg/cli/interrupts.py"]
