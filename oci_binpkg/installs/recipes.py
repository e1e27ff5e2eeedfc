"""The recipe that a prefix keeps of its package: what its `setup_run_environment` does, read without running it.

Spack copies recipes into `.spack/repos`. Most of these functions are a few calls whose values are paths below the
prefix. One that asks, loops or computes is not read: only Spack knows what it does.
Source: Spack's `EnvironmentModifications`.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Final

from oci_binpkg.disk import read_regular
from oci_binpkg.model.run_environment import Action, EnvironmentChange, RunEnvironment
from oci_binpkg.model.spec import Spec

_MAX_BYTES: Final = 256 * 1024
_MOST_FOLDERS: Final = 64
_DEEPEST: Final = 50
_REPOS: Final = ".spack/repos"
_FUNCTION: Final = "setup_run_environment"
_ACTIONS: Final = {
    "set": Action.SET,
    "unset": Action.UNSET,
    "prepend_path": Action.PREPEND,
    "append_path": Action.APPEND,
}
_JOINING: Final = ("join_path", "os.path.join")

_ONE_BY_ONE: Final = Lock()
"""Python 3.11 counts how deep it is in one place for all threads, and fails with SystemError where two parse."""


class NotPlainError(Exception):
    """A recipe does what only Spack can tell."""


def read_recipe(prefix: str, spec: Spec) -> RunEnvironment | None:
    """Return what the recipe in a prefix sets, with `{prefix}` for the prefix; None where no recipe sets anything.

    Raises `NotPlainError` for one that is more than a list of settings.
    """
    return _read(_found(prefix, spec))


def recipe_among(files: Mapping[str, bytes], spec: Spec) -> RunEnvironment | None:
    """Return what `read_recipe` does for a prefix of which only its recipes are known: relative path -> content."""
    names = _names(spec)
    own = (data for path, data in files.items() if path.split("/")[-2:-1] and path.split("/")[-2] in names)
    return _read(own)


def _read(recipes: Iterable[bytes]) -> RunEnvironment | None:
    for data in recipes:
        try:
            with _ONE_BY_ONE:
                module = ast.parse(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        functions = [
            node
            for each in module.body
            if isinstance(each, ast.ClassDef)
            for node in each.body
            if isinstance(node, ast.FunctionDef) and node.name == _FUNCTION
        ]
        if functions:
            try:
                return _settings(functions)
            except RecursionError:
                raise NotPlainError from None
    return None


def _found(prefix: str, spec: Spec) -> Iterator[bytes]:
    """Yield what may be the recipe of a package: `repos/[spack_repo/]NAMESPACE/packages/NAME/package.py`."""
    top = os.path.join(prefix, _REPOS)
    for repo in (*_folders(os.path.join(top, "spack_repo")), *_folders(top)):
        for name in _names(spec):
            with suppress(OSError):
                yield read_regular(os.path.join(repo, "packages", name, "package.py"), _MAX_BYTES, follow=False)


def _names(spec: Spec) -> tuple[str, ...]:
    """Return the folders that the recipe of a package can be in: since Spack 1.0 they are names of Python modules."""
    module = spec.name.replace("-", "_")
    return tuple(dict.fromkeys((spec.name, module, f"_{module}")))


def _folders(path: str) -> list[str]:
    try:
        return [os.path.join(path, name) for name in sorted(os.listdir(path))[:_MOST_FOLDERS]]
    except OSError:
        return []


def _settings(functions: Sequence[ast.FunctionDef]) -> RunEnvironment:
    if len(functions) != 1 or functions[0].decorator_list or len(functions[0].args.args) != len(("self", "env")):
        raise NotPlainError
    own, env = (each.arg for each in functions[0].args.args)
    return tuple(change for statement in functions[0].body for change in _change(statement, own, env))


def _change(statement: ast.stmt, own: str, env: str) -> Iterator[EnvironmentChange]:
    if isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    ):
        return
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or call.keywords or not isinstance(call.func, ast.Attribute):
        raise NotPlainError
    action = _ACTIONS.get(call.func.attr)
    if action is None or not isinstance(call.func.value, ast.Name) or call.func.value.id != env:
        raise NotPlainError
    texts = [_value(each, own) for each in call.args]
    if len(texts) != (1 if action is Action.UNSET else 2):
        raise NotPlainError
    change = EnvironmentChange(texts[0], "".join(texts[1:]), action)
    if change.problem:
        raise NotPlainError
    yield change


def _value(node: ast.expr, own: str, depth: int = 0) -> str:
    """Return the text of an expression of paths and texts. Raises `NotPlainError` for others."""
    if depth > _DEEPEST:
        raise NotPlainError
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return _text(node, own, depth)


def _text(node: ast.expr, own: str, depth: int) -> str:
    if isinstance(node, ast.Attribute):
        name = ast.unparse(node)
        if name in (f"{own}.prefix", f"{own}.spec.prefix"):
            return "{prefix}"
        return f"{_prefix(node.value, own, depth + 1)}/{node.attr}"
    if isinstance(node, ast.JoinedStr):
        return "".join(_value(part, own, depth + 1) for part in node.values)
    if isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None:
        return _value(node.value, own, depth + 1)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _value(node.left, own, depth + 1) + _value(node.right, own, depth + 1)
    if isinstance(node, ast.Call) and not node.keywords:
        return _called(node, own, depth)
    raise NotPlainError


def _called(node: ast.Call, own: str, depth: int) -> str:
    texts = [_value(each, own, depth + 1) for each in node.args]
    if texts and ast.unparse(node.func) in _JOINING:
        return os.path.join(*texts)
    if len(texts) == 1 and ast.unparse(node.func) == "str":
        return texts[0]
    if isinstance(node.func, ast.Attribute) and node.func.attr == "join" and len(texts) == 1:
        return os.path.join(_prefix(node.func.value, own, depth + 1), texts[0])
    raise NotPlainError


def _prefix(node: ast.expr, own: str, depth: int) -> str:
    """Return a path that begins with the prefix: its attributes are folders, and its `join` joins paths."""
    found = _value(node, own, depth) if isinstance(node, ast.Attribute | ast.Call) else ""
    if not found.startswith("{prefix}"):
        raise NotPlainError
    return found
