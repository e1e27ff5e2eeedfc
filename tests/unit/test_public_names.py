"""What `import oci_binpkg` costs and gives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import oci_binpkg

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "oci_binpkg"
AT_MOST_MILLISECONDS = 30


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def test_importing_the_package_loads_nothing_else() -> None:
    """Other modules of ours, and of the standard library, come with the first public name that is used."""
    code = "import sys; before = set(sys.modules); import oci_binpkg; print(*sorted(set(sys.modules) - before))"
    assert run(code).split() == ["oci_binpkg"]


def test_importing_the_package_costs_next_to_nothing() -> None:
    """The best of several: other programs on the machine only make it slower."""
    code = "import time; start = time.perf_counter(); import oci_binpkg; print(time.perf_counter() - start)"
    seconds = min(float(run(code)) for _ in range(5))
    assert seconds * 1000 < AT_MOST_MILLISECONDS


def test_the_testing_module_needs_the_standard_library_alone() -> None:
    code = "import sys, oci_binpkg.testing; print(*{name.split('.')[0] for name in sys.modules})"
    foreign = set(run(code).split()) - set(sys.stdlib_module_names) - {"oci_binpkg", "__main__"}
    assert {
        name for name in foreign if not name.startswith(("_", "sitecustomize", "coverage", "$coverage", "a1_coverage"))
    } == set()
    ours = "import sys, oci_binpkg.testing; print(*[name for name in sys.modules if name.startswith('oci_binpkg.')])"
    assert run(ours).split() == ["oci_binpkg.testing"]


@pytest.mark.parametrize("name", oci_binpkg.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(oci_binpkg, name) is not None
    assert name in dir(oci_binpkg)


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Wires'"):
        _ = oci_binpkg.Wires


def test_what_type_checkers_read_is_what_is_imported() -> None:
    block = next(node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    named = [alias.name for node in imports for alias in node.names]
    assert sorted([*named, "__version__"]) == sorted(oci_binpkg.__all__)
    places = {node.module: tuple(alias.name for alias in node.names) for node in imports if node.module != "oci_binpkg"}
    assert places == {f"oci_binpkg.{module}": names for module, names in oci_binpkg._MODULES.items()}


def test_no_internal_module_imports_the_front_door() -> None:
    """The package's own names lead to the client, so whoever imports them from below imports upwards."""
    importers = [
        str(module.relative_to(PACKAGE))
        for module in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "oci_binpkg"
    ]
    assert {name for name in importers if not name.startswith(("cli/", "__"))} == set()
